"""Configuration: one strict TOML file, read once, checked as a whole, and frozen."""

from keyd.config.audit import Audit
from keyd.config.file import DEFAULT_PATH, find, read
from keyd.config.grants import GrantConfig, GrantSection, Limits, PolicySection, PrincipalSection
from keyd.config.issuers import IssuerSection
from keyd.config.kubernetes import Kubernetes, PreviousKeys
from keyd.config.listeners import Connections, OwnSocket
from keyd.config.loader import load, loads
from keyd.config.model import BackendConfig, Config, Defaults, Http, Jwks, Log, ProfileSection, Server
from keyd.config.policy import policy
from keyd.config.problems import ConfigError, Problem
from keyd.config.publication import publication
from keyd.config.reload import reload_conflicts
from keyd.config.render import render
from keyd.config.store import Store
from keyd.config.tcp import Tcp

__all__ = [
    "Config",
    "Server",
    "Store",
    "Connections",
    "OwnSocket",
    "Http",
    "Tcp",
    "Jwks",
    "Defaults",
    "Log",
    "Audit",
    "ProfileSection",
    "GrantConfig",
    "GrantSection",
    "PrincipalSection",
    "IssuerSection",
    "Kubernetes",
    "PreviousKeys",
    "Limits",
    "PolicySection",
    "BackendConfig",
    "ConfigError",
    "Problem",
    "DEFAULT_PATH",
    "find",
    "load",
    "loads",
    "read",
    "render",
    "reload_conflicts",
    "policy",
    "publication",
]
