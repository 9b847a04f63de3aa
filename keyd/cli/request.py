"""``keyd request``: signs one HTTP request and sends it."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from keyd.cli import inputs, output
from keyd.cli.command import Command
from keyd.cli.errors import printable
from keyd.cli.options import DURATION, Connection, daemon_options, json_option

if TYPE_CHECKING:
    import httpx

    from keyd.client.http import SignatureOptions

# Signature-Input as KeydAuth writes it (RFC 9421 section 4.1): strings and integers, no other kinds of value.
_STRING = r'"(?:[^"\\]|\\.)*"'
_INTEGER = r"\d{1,15}(?!\d)"  # no more digits: RFC 9651 section 3.3.1
_SIGNATURE_INPUT = re.compile(
    rf"(?P<label>[a-z*][a-z0-9_.*-]*)=\((?P<components>(?:{_STRING}|[^\")])*)\)(?P<parameters>(?:;[a-z]+=(?:{_STRING}|{_INTEGER}))*)"
)
_COMPONENT = re.compile(rf"{_STRING}(?:;[a-z]+(?:={_STRING})?)*")
_PARAMETER = re.compile(rf";([a-z]+)=({_STRING}|{_INTEGER})")


@click.command(
    cls=Command,
    examples="""
    keyd request GET https://api.example/orders --key agent
    keyd request POST https://api.example/orders --key agent -H 'Content-Type: application/json' -d '{"item": 7}'
    keyd request PUT https://api.example/file --key agent -d @report.pdf -i
    keyd request GET https://api.example/ --key agent -v --json
    keyd request GET https://site.example/ --key bot --tag web-bot-auth -c @authority
    """,
)
@click.argument("method")
@click.argument("url")
@click.option("--key", "-k", required=True, metavar="KEY", help="Name of the key that signs.")
@click.option("--header", "-H", "headers", multiple=True, metavar="'NAME: VALUE'", help="Header to send; repeatable.")
@click.option(
    "--data", "-d", metavar="DATA|@FILE", help="Body; @FILE reads it from a file, @- from standard input, as it stands."
)
@click.option(
    "--component", "-c", "components", multiple=True, metavar="NAME", help="Covered component, such as @method; repeatable."
)
@click.option("--tag", help="The signature parameter tag, such as web-bot-auth.")
@click.option("--include", "-i", is_flag=True, help="Print the status line and headers of the response too.")
@click.option("--verbose", "-v", is_flag=True, help="Say on stderr what was signed: kid, covered components, parameters.")
@click.option("--fail", "-f", is_flag=True, help="Exit with code 1 when the status is 400 or higher.")
@click.option(
    "--max-time", type=DURATION, default="30s", show_default=True, metavar="DURATION", help="How long to wait for the server."
)
@json_option
@daemon_options
@click.pass_context
def request(
    ctx: click.Context,
    connection: Connection,
    method: str,
    url: str,
    key: str,
    headers: tuple[str, ...],
    data: str | None,
    components: tuple[str, ...],
    tag: str | None,
    include: bool,
    verbose: bool,
    fail: bool,
    max_time: float,
    as_json: bool,
) -> None:
    """Sign a request with KEY (RFC 9421), send it, and print the response.

    Redirects are not followed: the signature is for this URL.
    """
    if as_json and include:
        raise click.UsageError("--json has the headers already; leave out --include")
    body = None if data is None else inputs.read_body(data[1:]) if data.startswith("@") else data.encode()
    options: SignatureOptions = {}
    if components:
        options["components"] = components
    if tag:
        options["tag"] = tag
    outgoing = _outgoing(method, url, [_header(header) for header in headers], body)
    response = _send(connection, outgoing, key, options, max_time)
    signatures = list(signed(response.request.headers))
    if verbose:
        _say(signatures)
    if as_json:
        output.print_json(_as_dict(response, signatures))
    else:
        if include:
            _print_head(response)
        output.write_body(response.content)
    if fail and response.is_error:
        output.note(f"the status is {response.status_code}")
        ctx.exit(1)


def _outgoing(method: str, url: str, headers: list[tuple[str, str]], body: bytes | None) -> httpx.Request:
    import httpx

    try:
        outgoing = httpx.Request(method.upper(), url, headers=headers, content=body)
    except httpx.InvalidURL as exc:
        raise click.UsageError(f"{url!r} is not a URL: {exc}") from None
    if outgoing.url.scheme not in ("http", "https") or not outgoing.url.host:
        raise click.UsageError(f"{url!r} is not an http or https URL")
    return outgoing


def _send(
    connection: Connection, outgoing: httpx.Request, key: str, options: SignatureOptions, max_time: float
) -> httpx.Response:
    import httpx
    from http_message_signatures import HTTPMessageSignaturesException

    from keyd.client.httpx_auth import KeydAuth

    try:
        with connection.client() as client, httpx.Client(timeout=max_time) as http:
            return http.send(outgoing, auth=KeydAuth(client, key, **options))
    except HTTPMessageSignaturesException as exc:
        raise click.UsageError(f"cannot build what is to be signed: {exc}") from None
    except httpx.HTTPError as exc:
        raise click.ClickException(f"no response from {outgoing.url.host}: {str(exc) or type(exc).__name__}") from None


def signed(headers: httpx.Headers) -> Iterator[dict[str, Any]]:
    """Return what each signature of a request covers: label, kid, components as RFC 9421 writes them, parameters."""
    for match in _SIGNATURE_INPUT.finditer(headers.get("signature-input", "")):
        parameters = {name: _value(value) for name, value in _PARAMETER.findall(match["parameters"])}
        components = _COMPONENT.findall(match["components"])
        yield {"label": match["label"], "kid": parameters.get("keyid"), "components": components, "parameters": parameters}


def _value(text: str) -> str | int:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else int(text)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.UsageError(f"header {text!r} is not of the form 'NAME: VALUE'")
    return name.strip(), value.strip()


def _say(signatures: list[dict[str, Any]]) -> None:
    for signature in signatures:
        output.note(f"signature {signature['label']} by kid {signature['kid']}")
        output.note("  covers " + " ".join(signature["components"]))
        output.note("  " + " ".join(f"{name}={value}" for name, value in signature["parameters"].items()))


def _print_head(response: httpx.Response) -> None:
    click.echo(printable(f"{response.http_version} {response.status_code} {response.reason_phrase}"))
    for name, value in response.headers.multi_items():
        click.echo(printable(f"{name}: {value}"))
    click.echo()


def _as_dict(response: httpx.Response, signatures: list[dict[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "status": response.status_code,
        "reason": response.reason_phrase,
        "method": response.request.method,
        "url": str(response.request.url),
        "headers": [list(pair) for pair in response.headers.multi_items()],
        "signatures": signatures,
    }
    try:
        return result | {"body": response.content.decode()}
    except UnicodeDecodeError:
        return result | {"body_base64": base64.b64encode(response.content).decode()}
