"""`python -m fuzz`: run every target under atheris, one after the other, and print what was found.

What is in corpus/ is where each begins; a finding is written to findings/, and belongs into corpus/ once it is mended.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fuzz import DICTIONARY, MAX_LENGTH

HERE = Path(__file__).parent
#: How much of the time each target has.
SHARES = {"base": 3, "unsigned-base": 1, "token": 2, "signature-key": 2, "handlers": 2}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--target", choices=SHARES, action="append")
    parser.add_argument("--seed", type=int, default=0, help="0 chooses one")
    arguments = parser.parse_args()
    chosen = arguments.target or list(SHARES)
    each = arguments.minutes * 60 / sum(SHARES[name] for name in chosen)
    lines, findings = (
        [f"{'target':<14} {'seconds':>8} {'executions':>11} {'per second':>11} {'coverage':>9} {'features':>9}  result"],
        0,
    )
    for name in chosen:
        line, found = fuzz(name, max(2, int(each * SHARES[name])), arguments.seed)
        lines.append(line)
        findings += found
    sys.stdout.write("\n".join([*lines, f"findings: {findings}"]) + "\n")
    return 1 if findings else 0


def fuzz(name: str, seconds: int, seed: int) -> tuple[str, int]:
    """Run one target in a process of its own. Returns a line of the table, and how much was found."""
    findings = HERE / "findings"
    findings.mkdir(exist_ok=True)
    before = set(findings.iterdir())
    with tempfile.TemporaryDirectory(prefix="keyd-fuzz-") as work:
        words = Path(work) / "words"
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in DICTIONARY))
        new = Path(work) / "new"
        new.mkdir()
        command = [sys.executable, "-m", "fuzz.one", name, str(new), str(HERE / "corpus" / name)]
        options = [f"-max_total_time={seconds}", f"-max_len={MAX_LENGTH[name]}", f"-dict={words}", f"-seed={seed}", "-timeout=10"]
        options += ["-rss_limit_mb=2048", f"-artifact_prefix={findings}/{name}-", "-print_final_stats=1"]
        began = time.monotonic()
        ran = subprocess.run([*command, *options], capture_output=True, text=True, errors="replace", check=False)
        took = time.monotonic() - began
    found = sorted(path.name for path in set(findings.iterdir()) - before)
    status = re.findall(r"^#(\d+)\s.*?cov: (\d+) ft: (\d+)", ran.stderr, re.MULTILINE)
    executions, coverage, features = max(((int(a), int(b), int(c)) for a, b, c in status), default=(0, 0, 0))
    done = re.search(r"stat::number_of_executed_units:\s*(\d+)", ran.stderr)
    executions = int(done[1]) if done else executions
    failed = ran.returncode != 0 or bool(found) or executions == 0
    if failed:
        sys.stdout.write(f"--- {name}: exit {ran.returncode}\n{ran.stdout[-3000:]}{ran.stderr[-6000:]}\n")
    result = ("FOUND " + ", ".join(found) if found else f"FAILED, exit {ran.returncode}") if failed else "nothing found"
    line = f"{name:<14} {took:>8.0f} {executions:>11,} {executions / took:>11,.0f} {coverage:>9,} {features:>9,}  {result}"
    return line, int(failed)


def _escaped(word: str) -> str:
    return "".join(char if char.isalnum() else f"\\x{ord(char):02x}" for char in word)


if __name__ == "__main__":
    sys.exit(main())
