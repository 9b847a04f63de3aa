"""The PKCS#11 URI parser (RFC 7512)."""

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends._pkcs11_uri import Pkcs11Uri

_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40)
_path = _text.map(lambda text: "/" + text.lstrip("/"))
_optional = st.none() | _text
_uris = st.builds(
    Pkcs11Uri,
    token=_optional,
    serial=_optional,
    manufacturer=_optional,
    model=_optional,
    module_path=st.none() | _path,
    pin_source=st.none() | _path,
).filter(lambda uri: uri.token is not None or uri.serial is not None)


@given(_uris)
def test_what_is_written_is_read(uri: Pkcs11Uri) -> None:
    assert Pkcs11Uri.parse(str(uri)) == uri


@given(_uris)
def test_what_is_written_is_ascii_without_spaces(uri: Pkcs11Uri) -> None:
    assert str(uri).isascii()
    assert str(uri).isprintable()
    assert " " not in str(uri)


@given(st.text() | st.text(";&?=%:/abcdefpkcs11tokenserial-0129", max_size=80).map("pkcs11:".__add__))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """Only ValueError leaves the parser, and what it takes it writes back as the same."""
    try:
        uri = Pkcs11Uri.parse(text)
    except ValueError:
        return
    assert Pkcs11Uri.parse(str(uri)) == uri


@given(_uris, st.data())
def test_the_order_of_attributes_and_more_encoding_change_nothing(uri: Pkcs11Uri, data: st.DataObject) -> None:
    path, _, query = str(uri).removeprefix("pkcs11:").partition("?")
    shuffled = [";".join(data.draw(st.permutations(path.split(";")))), "&".join(data.draw(st.permutations(query.split("&"))))]
    assert Pkcs11Uri.parse("pkcs11:" + "?".join(part for part in shuffled if part)) == uri

    def encoded(part: str) -> str:
        name, _, value = part.partition("=")
        return f"{name}=" + "".join(
            c if c == "%" or value[i - 1 : i] == "%" or value[i - 2 : i - 1] == "%" else f"%{ord(c):02x}"
            for i, c in enumerate(value)
        )

    assert Pkcs11Uri.parse("pkcs11:" + ";".join(map(encoded, path.split(";"))) + (f"?{query}" if query else "")) == uri


@given(_uris, st.sampled_from(["token", "serial", "module-path", "pin-source"]))
def test_twice_is_refused(uri: Pkcs11Uri, name: str) -> None:
    path, _, query = str(uri).removeprefix("pkcs11:").partition("?")
    if "-" in name:
        query = "&".join(filter(None, [query, f"{name}=/x", f"{name}=/x"]))
    else:
        path = f"{path};{name}=x;{name}=x"
    text = f"pkcs11:{path}?{query}" if query else f"pkcs11:{path}"
    with pytest.raises(ValueError, match=f"{name} is given twice"):
        Pkcs11Uri.parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pkcs11:token=keyd", {"token": "keyd"}),
        ("PKCS11:token=keyd", {"token": "keyd"}),
        ("pkcs11:serial=0123;token=my%20HSM", {"token": "my HSM", "serial": "0123"}),
        ("pkcs11:token=a&b=c?module-path=/usr/lib/m.so", {"token": "a&b=c", "module_path": "/usr/lib/m.so"}),
        ("pkcs11:token=t?pin-source=file:/etc/pin", {"token": "t", "pin_source": "/etc/pin"}),
        ("pkcs11:token=t?pin-source=file:///etc/pin", {"token": "t", "pin_source": "/etc/pin"}),
        ("pkcs11:token=t?pin-source=/etc/pin&module-path=/m", {"token": "t", "pin_source": "/etc/pin", "module_path": "/m"}),
        ("pkcs11:token=%C3%A9t%c3%a9;model=x;manufacturer=y", {"token": "été", "model": "x", "manufacturer": "y"}),
    ],
)
def test_examples(text: str, expected: dict[str, str]) -> None:
    assert {name: value for name, value in asdict(Pkcs11Uri.parse(text)).items() if value is not None} == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not a PKCS#11 URI"),
        ("http:token=keyd", "not a PKCS#11 URI"),
        ("pkcs11:", "no token is named"),
        ("pkcs11:model=x", "no token is named"),
        ("pkcs11:token=keyd?", "nothing after the question mark"),
        ("pkcs11:token=keyd;", "an attribute here is not one of"),
        ("pkcs11:token=", "token is empty"),
        ("pkcs11:token", "token is empty"),
        ("pkcs11:token=my HSM", "%20"),
        ("pkcs11:token=é", "percent-encoded"),
        ("pkcs11:token=100%", "percent-encoded"),
        ("pkcs11:token=%f", "percent-encoded"),
        ("pkcs11:token=a/b", "percent-encoded"),
        ("pkcs11:token=%ff", "not UTF-8"),
        ("pkcs11:token=a%00b", "NUL"),
        ("pkcs11:Token=keyd", "an attribute here"),
        ("pkcs11:colour=red;token=keyd", "the attribute colour is not one of token, serial"),
        ("pkcs11:token=keyd?colour=red", "the attribute colour is not one of module-path, pin-source"),
        ("pkcs11:token=keyd;slot-id=1", "slot numbers change"),
        ("pkcs11:token=keyd;object=k", "adopt a key by its handle"),
        ("pkcs11:token=keyd?pin-value=1234", "a PIN has no place in a configuration"),
        ("pkcs11:token=keyd?module-name=softhsm2", "write module-path"),
        ("pkcs11:token=keyd?module-path=libsofthsm2.so", "not an absolute path"),
        ("pkcs11:token=keyd?pin-source=file:pin", "pin-source is not file:/PATH"),
        ("pkcs11:token=keyd?pin-source=file://host/pin", "pin-source is not file:/PATH"),
        ("pkcs11:token=keyd?pin-source=|cat%20/pin", "no program is taken"),
    ],
)
def test_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError) as caught:
        Pkcs11Uri.parse(text)
    assert complaint in str(caught.value)
    assert "1234" not in str(caught.value)
