from guarded import house
from service_conftest import running

__all__ = ["house", "running"]
