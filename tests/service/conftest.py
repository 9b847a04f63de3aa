from guarded import house
from service_conftest import running
from session_support import agents

__all__ = ["agents", "house", "running"]
