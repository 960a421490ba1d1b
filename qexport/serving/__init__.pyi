from .app import Served as Served
from .server import serve as serve
