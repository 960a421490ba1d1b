from . import cpu as cpu, cuda as cuda, errors as errors, progress as progress, ram as ram, stats as stats
from .arguments import checked as checked
from .artifact import (
    DEPLOYMENT as DEPLOYMENT,
    MANIFEST_NAME as MANIFEST_NAME,
    ONNX_DATA_NAME as ONNX_DATA_NAME,
    ONNX_NAME as ONNX_NAME,
    Artifact as Artifact,
    CalibrationInfo as CalibrationInfo,
    FileInfo as FileInfo,
    Manifest as Manifest,
    ModelInfo as ModelInfo,
    QuantizedNode as QuantizedNode,
    check_output as check_output,
    file_sha256 as file_sha256,
    files_sha256 as files_sha256,
    kind_of as kind_of,
    load_artifact as load_artifact,
    manifest_kind as manifest_kind,
    new_artifact as new_artifact,
    parse_manifest as parse_manifest,
    require_named as require_named,
)
from .cache import cache_folder as cache_folder
from .display import require_utf8 as require_utf8, shown as shown
from .errors import (
    EXIT_ERROR as EXIT_ERROR,
    EXIT_FAULT as EXIT_FAULT,
    EXIT_INTERRUPTED as EXIT_INTERRUPTED,
    ContractError as ContractError,
    InputError as InputError,
    NotComparable as NotComparable,
    ParityError as ParityError,
    QExportError as QExportError,
    SelectionError as SelectionError,
    UnsupportedHere as UnsupportedHere,
    first_words as first_words,
    is_out_of_memory as is_out_of_memory,
    near_names as near_names,
)
from .external_data import load_verified as load_verified, require_own_data as require_own_data
from .files import read_json as read_json, read_text as read_text, write_all as write_all, write_whole as write_whole
from .float_graph import FloatGraph as FloatGraph
from .folders import (
    check_replaceable as check_replaceable,
    sweep_unfinished as sweep_unfinished,
    whole_folder as whole_folder,
)
from .graph import (
    EXTERNAL_DATA_BYTES as EXTERNAL_DATA_BYTES,
    array as array,
    contrib_node as contrib_node,
    cut as cut,
    holds as holds,
    load_verified_graph as load_verified_graph,
    matmul_weight as matmul_weight,
    raise_opset as raise_opset,
    replace_node as replace_node,
    replace_weight as replace_weight,
    save as save,
    set_initializer as set_initializer,
    untie as untie,
)
from .metrics import (
    CATALOGUE as CATALOGUE,
    DISTANCES as DISTANCES,
    GROUPS as GROUPS,
    Form as Form,
    Group as Group,
    Metric as Metric,
    Unit as Unit,
    metrics_of as metrics_of,
    require_known as require_known,
    require_tasks as require_tasks,
)
from .names import (
    Exporter as Exporter,
    Provider as Provider,
    RuntimeName as RuntimeName,
    TargetName as TargetName,
    names_in as names_in,
)
from .progress import Advance as Advance, left as left
from .record import (
    OTHERS as OTHERS,
    RECORDS_NAME as RECORDS_NAME,
    Conditions as Conditions,
    Measurement as Measurement,
    Published as Published,
    append_records as append_records,
    cut_off as cut_off,
    read_records as read_records,
    write_records as write_records,
)
from .scratch import claimed as claimed, scratch_folder as scratch_folder
from .selection import (
    ALL as ALL,
    BODY as BODY,
    PARAMETERS_KEY as PARAMETERS_KEY,
    Role as Role,
    Selection as Selection,
    Selector as Selector,
    WeightNode as WeightNode,
    parse_selector as parse_selector,
    selector_of as selector_of,
    weight_nodes as weight_nodes,
)
from .silence import quiet as quiet
from .stats import Interval as Interval, McNemar as McNemar
from .version import VERSION as VERSION
