from .pipeline import (
    export as export,
    export_source as export_source,
    model_info as model_info,
    require_model_kept as require_model_kept,
    versions_of as versions_of,
)
