from .decoding import Decoder as Decoder, Generated as Generated, generate as generate, padded as padded
from .onnx_session import (
    OrtSession as OrtSession,
    decoder_feeds as decoder_feeds,
    present_to_past as present_to_past,
    require_provider as require_provider,
    warm_up as warm_up,
)
from .opening import open_session as open_session
from .scoring import (
    BATCH_ROWS as BATCH_ROWS,
    Batching as Batching,
    Likelihood as Likelihood,
    Passage as Passage,
    Prompt as Prompt,
    generate_until as generate_until,
    loglikelihoods as loglikelihoods,
)
from .session import (
    NODES_ON as NODES_ON,
    QUANTIZED_KERNELS as QUANTIZED_KERNELS,
    SATURATES as SATURATES,
    Observe as Observe,
    ProviderUnavailable as ProviderUnavailable,
    Session as Session,
)
from .torch_session import (
    BLOCK_SIZE as BLOCK_SIZE,
    Compute as Compute,
    linear_modules as linear_modules,
    load_model as load_model,
    quantized_modules as quantized_modules,
    require_same_modules as require_same_modules,
    require_torch_provider as require_torch_provider,
    stored_tensor_bytes as stored_tensor_bytes,
    torch_dtype as torch_dtype,
    torch_logits as torch_logits,
    torch_versions as torch_versions,
    torch_warm_up as torch_warm_up,
)
