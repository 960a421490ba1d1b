from .bench import (
    Bench as Bench,
    BenchRow as BenchRow,
    measure_artifacts as measure_artifacts,
    rows_of_artifacts as rows_of_artifacts,
    timestamp as timestamp,
)
from .distributions import DISTRIBUTIONS as DISTRIBUTIONS
from .effect import choices_in as choices_in, known_choices as known_choices, require_effect as require_effect
from .feeds import Feed as Feed, Reader as Reader, Texts as Texts
from .interleaved import PROBES_HERE as PROBES_HERE, TIMED as TIMED, Interleaved as Interleaved
from .job import AnswerKey as AnswerKey, Job as Job
from .memory import require_export_fit as require_export_fit
from .probes import (
    PROBES as PROBES,
    Probe as Probe,
    Stored as Stored,
    is_timed as is_timed,
    kind_of_tokens as kind_of_tokens,
    probe_of as probe_of,
)
from .probing import require_provider as require_provider
from .tasks.load import LoadedTask as LoadedTask, load_tasks as load_tasks
