"""Run in a mount namespace of its own: a daemon whose disk, a small tmpfs, fills up and is emptied again."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from daemon_process import DaemonProcess
from support import fill_disk, signature_base

from keyd.client import KeydClientError

daemon = DaemonProcess()
state = daemon.directory / "state"
state.mkdir(mode=0o700)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=0700", "tmpfs", str(state)], check=True)
try:
    daemon.start()
    with daemon.admin() as admin, daemon.client() as client:
        kid = admin.create_key(name="agent").key.versions[0].kid
        filler = state / "filler"
        fill_disk(filler)
        refusals = []
        for number in range(40):  # the last pages of the log of the database may still take some
            try:
                admin.create_key(name=f"k{number}", keyid_aliases=["a" * 200] * 16)
            except KeydClientError as exc:
                refusals.append(exc)
                break
        print("create refused:", refusals[0].code.name, refusals[0].reason, refusals[0])
        made = {key.name for key in admin.list_keys()} - {"keyd-audit"}  # keyd makes that one itself, when it can
        try:
            for _ in range(200):  # the last page of the audit trail may still take some
                assert client.sign_base("agent", signature_base(time.time())).kid == kid
        except KeydClientError as exc:
            print("sign refused:", exc.code.name, exc.reason)
        filler.unlink()
        assert client.sign_base("agent", signature_base(time.time())).kid == kid
        print("signing works again")
        admin.create_key(name="again")
        print("create works again")
        assert {key.name for key in admin.list_keys()} - {"keyd-audit"} == made | {"again"}
    daemon.stop()
    daemon.start()
    with daemon.admin() as admin:
        names = {key.name for key in admin.list_keys()} - {"keyd-audit"}
        assert names == made | {"again"}, names
        print(len({"agent", "again"} & names), "keys after a restart")
    daemon.stop()
finally:
    if daemon.process is not None and daemon.process.poll() is None:
        daemon.stop(9)
    print(daemon.log.read_text(), file=sys.stderr)
    subprocess.run(["umount", str(state)], check=True)
    daemon.close()
