from .hub import PushReport as PushReport, push as push
from .manifest import Deployment as Deployment, Verification as Verification, verify as verify
from .onnx_twins import require_onnx as require_onnx
from .pipeline import LAYOUTS as LAYOUTS, deploy as deploy
