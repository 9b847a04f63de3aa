from service_conftest import running

__all__ = ["running"]
