from .architecture import Architecture as Architecture
from .bundle import (
    CALIBRATION_TEXT as CALIBRATION_TEXT,
    EVALUATION_TEXT as EVALUATION_TEXT,
    PROMPTS as PROMPTS,
    bundled as bundled,
    find_experiment as find_experiment,
)
from .experiment import Experiment as Experiment, Row as Row, Tasks as Tasks, load_experiment as load_experiment
from .location import NO_TRUST as NO_TRUST, REFERENCE as REFERENCE, Trust as Trust, locate as locate
from .models import (
    copy_side_files as copy_side_files,
    load_tokenizer as load_tokenizer,
    load_torch_model as load_torch_model,
    locate_model as locate_model,
    source_of as source_of,
    stop_ids as stop_ids,
)
from .pretrained import (
    SIDE_FILES as SIDE_FILES,
    load_config as load_config,
    load_weights as load_weights,
    read_tokenizer as read_tokenizer,
)
from .prompts import Prompts as Prompts, encode_prompts as encode_prompts, load_prompts as load_prompts
from .rows import rows_of as rows_of, table_rows as table_rows, without_row as without_row
from .settings import first_reason as first_reason, read_toml as read_toml
from .sizes import (
    parameter_count as parameter_count,
    parameters_of as parameters_of,
    without_weights as without_weights,
)
from .source import ModelSource as ModelSource
from .stand_in import Size as Size, make_stand_in as make_stand_in, stand_in_config as stand_in_config
from .text import (
    Place as Place,
    Text as Text,
    TokenSet as TokenSet,
    load_text as load_text,
    make_sentences as make_sentences,
    make_windows as make_windows,
    read_json_values as read_json_values,
    require_rows as require_rows,
    text_of as text_of,
)
