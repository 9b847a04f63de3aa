"""What grants allow and refuse, and with which reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backends.api import Algorithm
from keyd.core import authorities, jws, signature_base
from keyd.core.errors import GrantError, KeydError, MalformedError
from keyd.core.grants import Grant, PrincipalPattern
from keyd.core.jws import JwsSigningInput
from keyd.core.model import Purpose
from keyd.core.policy import Policy, decide
from keyd.core.principal import Principal
from keyd.core.rates import Rate
from keyd.core.signing_request import SigningRequest

NOW = 1_800_000_000
AGENT = Principal(uid=1001, gid=1001, groups=frozenset({27}), pid=7, executable="/usr/bin/agent", unit="shop.service")
GRANT = Grant("shop", (PrincipalPattern(uid=1001),), ("shop-*",), frozenset({Purpose.HTTP}))


def base(*lines: tuple[str, str], directory: bool = False) -> SigningRequest:
    """Return the request to sign a base with these components, as the real parser reads it."""
    listed = " ".join(name for name, _ in lines)
    text = "".join(f"{name}: {value}\n" for name, value in lines) + f'"@signature-params": ({listed});created={NOW}'
    purpose = Purpose.DIRECTORY if directory else Purpose.HTTP
    return SigningRequest(purpose, "rfc9421", NOW, base=signature_base.parse(text.encode()))


def token(typ: str | None = "JWT", **claims: object) -> SigningRequest:
    return SigningRequest(Purpose.JWT, "rfc9421", NOW, token=JwsSigningInput("Ed25519", typ, None, claims))


def reason(grant: Grant, request: SigningRequest) -> str | None:
    """Return the reason of the refusal, or None."""
    try:
        decide(Policy([grant]).rights(AGENT).sign("shop-1"), request)
    except KeydError as error:
        assert error.metadata["grant"] == grant.name
        return error.reason
    return None


def for_authorities(*allowed: str) -> Grant:
    for authority in allowed:
        authorities.check(authority)
    return replace(GRANT, authorities=allowed)


class TestAuthorities:
    ALLOWED = for_authorities("api.shop.example", "*.pay.example", "eu.shop.example:8443", "[2001:db8::1]", "192.0.2.1:8080")

    @pytest.mark.parametrize(
        "authority",
        [
            "api.shop.example",
            "eu.pay.example",
            "a.b.pay.example",
            "xn--bcher-kva.pay.example",
            "eu.shop.example:8443",
            "[2001:db8::1]",
            "192.0.2.1:8080",
        ],
    )
    def test_allowed(self, authority: str) -> None:
        assert reason(self.ALLOWED, base(('"@authority"', authority))) is None
        assert reason(self.ALLOWED, base(('"@target-uri"', f"https://{authority}/x?y=z"))) is None
        assert reason(self.ALLOWED, base(('"@authority"', authority), ('"@target-uri"', f"https://{authority}"))) is None

    @pytest.mark.parametrize(
        "authority",
        [
            "evil.example",
            "shop.example",
            "xapi.shop.example",
            "api.shop.example.evil.example",
            "api.shop.examplee",
            # ports
            "api.shop.example:443",
            "api.shop.example:80",
            "api.shop.example:8443",
            "api.shop.example:0443",
            "api.shop.example:",
            "eu.shop.example",
            "eu.shop.example:443",
            "eu.pay.example:8443",
            "192.0.2.1",
            # the suffix itself, and what only looks like one
            "pay.example",
            ".pay.example",
            "evil-pay.example",
            "evilpay.example",
            "a..pay.example",
            "-a.pay.example",
            "a-.pay.example",
            "*.pay.example",
            "pay.example.evil.example",
            "a.pay.example.evi.example",  # ends after as many characters as the suffix has
            "a.pay.example.evilexample",
            # spellings of the same host
            "api.shop.example.",
            "eu.pay.example.",
            "API.shop.example",
            "api.Shop.example",
            "EU.pay.example",
            "eu.PAY.example",
            "user@api.shop.example",
            "user:password@api.shop.example",
            "api.shop.example@evil.example",
            "api%2Eshop.example",
            "api%2eshop.example",
            "%61pi.shop.example",
            "api.shop.example%00",
            "api.shop.example%2F@evil.example",
            "eu%2Epay.example",
            # international names
            "b\u00fccher.pay.example",
            "api\u3002shop.example",
            "\uff41pi.shop.example",
            "\u0430pi.shop.example",
            # addresses
            "[2001:DB8::1]",
            "[2001:db8:0::1]",
            "[2001:0db8::1]",
            "[2001:db8::1%25eth0]",
            "[::ffff:192.0.2.1]:8080",
            "2001:db8::1",
            "192.0.2.01:8080",
            "0xc0.0.2.1:8080",
            "3221225985:8080",
            "192.0.513:8080",
            # white space and other separators
            " api.shop.example",
            "api.shop.example ",
            "api.shop.example\t",
            "api.shop.example,evil.example",
            "api.shop.example\\.evil.example",
            "api.shop.example#.evil.example",
            "",
        ],
    )
    def test_refused(self, authority: str) -> None:
        for lines in (
            [('"@authority"', authority)],
            [('"@target-uri"', f"https://{authority}/x")],
            [('"@authority"', "api.shop.example"), ('"@target-uri"', f"https://{authority}/x")],
            [('"@authority"', authority), ('"@target-uri"', "https://api.shop.example/x")],
            [('"@authority"', "api.shop.example"), ('"@request-target"', f"https://{authority}/x")],
        ):
            try:
                request = base(*lines)
            except MalformedError:
                continue
            assert reason(self.ALLOWED, request) == "AUTHORITY", lines

    @pytest.mark.parametrize(
        "lines",
        [
            [('"@method"', "GET")],
            [('"@path"', "/")],
            [('"host"', "api.shop.example")],
            [('"@request-target"', "https://api.shop.example/")],
            [('"@authority";req', "api.shop.example")],
            [('"x-authority"', "api.shop.example")],
        ],
    )
    def test_a_base_that_does_not_cover_it_is_refused(self, lines: list[tuple[str, str]]) -> None:
        assert reason(self.ALLOWED, base(*lines)) == "AUTHORITY"

    @pytest.mark.parametrize(
        ("target", "expected"),
        [
            ("/x?y", None),
            ("*", None),
            ("https://api.shop.example/x", None),
            ("https://evil.example/x", "AUTHORITY"),
            ("http://evil.example?api.shop.example", "AUTHORITY"),
            ("//evil.example/x", "AUTHORITY"),
            ("evil.example:443", "AUTHORITY"),
            ("api.shop.example:443", "AUTHORITY"),
            ("ftp://api.shop.example/x", "AUTHORITY"),
            ("https:api.shop.example", "AUTHORITY"),
            ("\\\\evil.example", "AUTHORITY"),
        ],
    )
    def test_a_request_target_that_names_another_authority_is_refused(self, target: str, expected: str | None) -> None:
        assert reason(self.ALLOWED, base(('"@authority"', "api.shop.example"), ('"@request-target"', target))) == expected

    def test_schemes_have_to_agree(self) -> None:
        uri = ('"@target-uri"', "https://api.shop.example/")
        assert reason(self.ALLOWED, base(uri, ('"@scheme"', "https"))) is None
        assert reason(self.ALLOWED, base(uri, ('"@scheme"', "http"))) == "AUTHORITY"

    def test_a_response_of_a_key_directory_has_the_authority_of_its_request(self) -> None:
        grant = replace(self.ALLOWED, purposes=frozenset({Purpose.DIRECTORY}))
        assert reason(grant, base(('"@authority";req', "api.shop.example"), directory=True)) is None
        assert reason(grant, base(('"@authority";req', "evil.example"), directory=True)) == "AUTHORITY"
        assert reason(grant, base(('"@authority"', "api.shop.example"), directory=True)) == "AUTHORITY"

    def test_any_authority_has_to_be_covered(self) -> None:
        grant = for_authorities("*")
        assert reason(grant, base(('"@authority"', "evil.example"))) is None
        assert reason(grant, base(('"@method"', "GET"))) == "AUTHORITY"

    def test_without_the_limit_none_is_needed(self) -> None:
        assert reason(GRANT, base(('"@method"', "GET"))) is None

    @given(st.from_regex(r"\A(\[[0-9a-f:.]{1,12}\]|[a-z0-9._\-]{1,30})(:[0-9]{1,5})?\Z"))
    @example("api.shop.example")
    @example("a.pay.example")
    def test_nothing_but_what_is_listed(self, authority: str) -> None:
        """Whatever the grammar of bases has as an authority: it is signed for when it is one of the list, and not otherwise."""
        host = authority.removesuffix(".pay.example")
        below = host != authority and all(
            label and not label.startswith(("-", "_")) and not label.endswith(("-", "_")) for label in host.split(".")
        )
        wanted = authority in {"api.shop.example", "eu.shop.example:8443", "[2001:db8::1]", "192.0.2.1:8080"} or below
        assert (reason(self.ALLOWED, base(('"@authority"', authority))) is None) == wanted

    @given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=40))
    def test_a_target_uri_is_for_one_of_the_list_or_not_signed(self, rest: str) -> None:
        """The verifier's URI parser is Python's: whatever host that sees in what keyd signs is allowed."""
        from urllib.parse import urlsplit

        try:
            request = base(('"@target-uri"', f"https://api.shop.example{rest}"))
        except MalformedError:
            return
        if reason(for_authorities("api.shop.example"), request) is None:
            assert urlsplit(f"https://api.shop.example{rest}").netloc == "api.shop.example"


_NAMES = st.sampled_from(
    [
        "api.example",
        "eu.api.example",
        "evil.example",
        "API.example",
        "api.example.",
        "api.example:443",
        "api.example:8443",
        "u@api.example",
    ]
)


@given(
    authority=st.none() | _NAMES,
    uri=st.none() | st.tuples(st.sampled_from(["https", "http", "HTTPS"]), _NAMES),
    target=st.none() | st.just("/x") | st.just("*") | _NAMES | _NAMES.map("https://{}/x".format) | _NAMES.map("//{}/x".format),
    of_request=st.none() | _NAMES,
)
def test_whatever_is_covered_the_verifier_sees_an_allowed_authority(
    authority: str | None, uri: tuple[str, str] | None, target: str | None, of_request: str | None
) -> None:
    """A base is signed only if each authority that it names is the allowed one, and it names one where verifiers look for it."""
    lines = [('"@authority"', authority), ('"@request-target"', target), ('"@authority";req', of_request)]
    lines.append(('"@target-uri"', uri and f"{uri[0]}://{uri[1]}/x"))
    try:
        request = base(*((name, value) for name, value in lines if value is not None))
    except MalformedError:
        return
    if reason(for_authorities("api.example"), request) is not None:
        return
    named = {authority, uri and uri[1]} - {None}
    assert named == {"api.example"}
    assert target in {None, "/x", "*", "api.example", "https://api.example/x"}


class TestMethodsAndPaths:
    GRANT = replace(GRANT, methods=frozenset({"GET"}), paths=("/v1/", "/status"))

    def test_methods(self) -> None:
        path = ('"@path"', "/v1/x")
        assert reason(self.GRANT, base(('"@method"', "GET"), path)) is None
        for method in ("POST", "get", "GETT"):
            assert reason(self.GRANT, base(('"@method"', method), path)) == "METHOD"
        assert reason(self.GRANT, base(path)) == "METHOD"
        assert reason(self.GRANT, base(('"@method";req', "GET"), path)) == "METHOD"

    @pytest.mark.parametrize(
        "path", ["/v1/", "/v1/x", "/v1/x.y/z", "/v1/x;a=b", "/v1/%C3%A9", "/v1/...", "/status", "/status/x", "/v1/@"]
    )
    def test_paths_below(self, path: str) -> None:
        method = ('"@method"', "GET")
        assert reason(self.GRANT, base(method, ('"@path"', path))) is None
        assert reason(self.GRANT, base(method, ('"@target-uri"', f"https://a.example{path}?q=/../"))) is None
        assert reason(self.GRANT, base(method, ('"@request-target"', f"{path}?q"), ('"@path"', path))) is None
        assert reason(self.GRANT, base(method, ('"@request-target"', f"{path}?q"))) is None

    @pytest.mark.parametrize(
        "path",
        [
            "/",
            "/v1",
            "/v2/",
            "/V1/x",
            "/v1x/",
            "/statusx",
            "/x/v1/",
            "//v1/x",
            "/v1//x",
            "/v1/../admin",
            "/v1/..",
            "/v1/.",
            "/v1/./x",
            "/v1/..;/admin",
            "/v1/..;a=b/admin",
            "/v1/%2e%2e/admin",
            "/v1/%2E%2E/admin",
            "/v1/.%2e/admin",
            "/v1/x%2Fy",
            "/v1/x%2f..%2fy",
            "/v1/x%5cy",
            "/v1/x%5Cy",
            "/v1/x\\y",
            "/v1/%252e%252e/admin",
            "/v1/x%00",
            "/v1/%c0%ae%c0%ae/admin",
            "/v1/%u002e/",
            "/v1/%",
            "/v1/%2",
        ],
    )
    def test_paths_that_are_not(self, path: str) -> None:
        method = ('"@method"', "GET")
        for lines in (
            [('"@path"', path)],
            [('"@target-uri"', f"https://a.example{path}")],
            [('"@path"', "/v1/x"), ('"@target-uri"', f"https://a.example{path}")],
            [('"@path"', "/v1/x"), ('"@request-target"', path)],
            [('"@path"', path), ('"@request-target"', "/v1/x")],
        ):
            try:
                request = base(method, *lines)
            except MalformedError:
                continue
            assert reason(self.GRANT, request) == "PATH", lines

    @pytest.mark.parametrize("target", ["*", "a.example:443", "https://a.example", "https://a.example/v2/"])
    def test_request_targets_of_other_forms(self, target: str) -> None:
        assert reason(self.GRANT, base(('"@method"', "GET"), ('"@path"', "/v1/x"), ('"@request-target"', target))) == "PATH"

    def test_a_path_has_to_be_covered(self) -> None:
        assert reason(self.GRANT, base(('"@method"', "GET"), ('"@authority"', "a.example"))) == "PATH"

    @given(st.text("/.%2eE5cCfF;\\av1", max_size=20))
    def test_no_path_leaves_its_prefix(self, rest: str) -> None:
        """Read as any server might: escapes resolved, once and twice, and then the dot segments."""
        from posixpath import normpath
        from urllib.parse import unquote

        try:
            request = base(('"@method"', "GET"), ('"@path"', f"/v1/{rest}"))
        except MalformedError:
            return
        if reason(replace(self.GRANT, paths=("/v1/",)), request) is None:
            read = unquote(unquote(f"/v1/{rest}")).replace("\\", "/")
            read = "/".join(segment.partition(";")[0] for segment in read.split("/"))
            assert f"{normpath(read)}/".startswith("/v1/")


class TestTokens:
    GRANT = replace(
        GRANT,
        purposes=frozenset({Purpose.JWT}),
        jwt_types=frozenset({"at+jwt"}),
        issuers=frozenset({"https://i.example"}),
        audiences=frozenset({"a", "b"}),
        max_jwt_lifetime=300.0,
    )
    GOOD: Mapping[str, object] = {"iss": "https://i.example", "aud": "a", "iat": NOW, "exp": NOW + 300}

    @pytest.mark.parametrize(
        ("typ", "changes", "expected"),
        [
            ("at+jwt", {}, None),
            ("AT+JWT", {}, None),
            ("JWT", {}, "TAG"),
            (None, {}, "TAG"),
            ("at+jw\u0131", {}, "TAG"),
            ("at+jwt", {"iss": None}, "ISSUER"),
            ("at+jwt", {"iss": "https://i.example/"}, "ISSUER"),
            ("at+jwt", {"iss": ["https://i.example"]}, "ISSUER"),
            ("at+jwt", {"aud": ["a", "b"]}, None),
            ("at+jwt", {"aud": ["a", "c"]}, "AUDIENCE"),
            ("at+jwt", {"aud": []}, "AUDIENCE"),
            ("at+jwt", {"aud": None}, "AUDIENCE"),
            ("at+jwt", {"aud": ["a", ["b"]]}, "AUDIENCE"),
            ("at+jwt", {"aud": {"a": 1}}, "AUDIENCE"),
            ("at+jwt", {"exp": NOW + 301}, "FRESHNESS"),
            ("at+jwt", {"iat": NOW - 1}, "FRESHNESS"),
            ("at+jwt", {"iat": NOW + 1, "exp": NOW + 301}, "FRESHNESS"),
            ("at+jwt", {"iat": "soon"}, "FRESHNESS"),
            ("at+jwt", {"exp": None}, "FRESHNESS"),
            ("at+jwt", {"exp": True}, "FRESHNESS"),
        ],
    )
    def test_limits(self, typ: str | None, changes: dict[str, object], expected: str | None) -> None:
        assert reason(self.GRANT, token(typ, **{**self.GOOD, **changes})) == expected

    @pytest.mark.parametrize("claim", ["iss", "aud", "exp"])
    def test_claims_that_are_missing(self, claim: str) -> None:
        claims = {name: value for name, value in self.GOOD.items() if name != claim}
        assert reason(self.GRANT, token("at+jwt", **claims)) is not None

    def test_without_iat_the_lifetime_counts_from_now(self) -> None:
        assert reason(self.GRANT, token("at+jwt", iss="https://i.example", aud="a", exp=NOW + 300)) is None
        assert reason(self.GRANT, token("at+jwt", iss="https://i.example", aud="a", exp=NOW + 301)) == "FRESHNESS"

    def test_what_keyd_builds_is_within_the_lifetime(self) -> None:
        grant = replace(self.GRANT, issuers=None, audiences=None)
        data = jws.build("{}", typ="at+jwt", kid="k", algorithm=Algorithm.ED25519, now=NOW + 0.9, lifetime=300)
        assert reason(grant, SigningRequest(Purpose.JWT, "rfc9421", NOW + 0.9, token=jws.parse(data))) is None

    def test_limits_on_requests_do_not_hold_for_tokens(self) -> None:
        both = replace(GRANT, purposes=frozenset({Purpose.HTTP, Purpose.JWT}), authorities=("a.example",))
        assert reason(both, token()) is None
        assert reason(both, base(('"@authority"', "b.example"))) == "AUTHORITY"


class TestPurposesAndProfiles:
    @pytest.mark.parametrize("purpose", list(Purpose), ids=lambda p: p.value)
    def test_each_purpose_is_named(self, purpose: Purpose) -> None:
        for other in Purpose:
            grant = replace(GRANT, purposes=frozenset({purpose}))
            expected = None if other is purpose else "PURPOSE"
            assert reason(grant, SigningRequest(other, "rfc9421", NOW)) == expected

    def test_profiles(self) -> None:
        grant = replace(GRANT, profiles=frozenset({"aauth"}))
        assert reason(grant, SigningRequest(Purpose.HTTP, "aauth", NOW)) is None
        assert reason(grant, SigningRequest(Purpose.HTTP, "rfc9421", NOW)) == "GRANT"


class TestSeveralGrants:
    def test_one_that_allows_all_is_enough(self) -> None:
        first = replace(GRANT, name="first", authorities=("a.example",), methods=frozenset({"GET"}))
        second = replace(GRANT, name="second", authorities=("b.example",), methods=frozenset({"POST"}))
        rules = Policy([first, second]).rights(AGENT).sign("shop-1")
        assert decide(rules, base(('"@authority"', "b.example"), ('"@method"', "POST"))).name == "second"
        for order in (rules, rules[::-1]):  # no half of one and half of the other; it gets further with the first
            with pytest.raises(KeydError) as caught:
                decide(order, base(('"@authority"', "a.example"), ('"@method"', "POST")))
            assert (caught.value.reason, caught.value.metadata["grant"]) == ("METHOD", "first")

    def test_a_rate_that_is_used_up_leaves_the_next_grant(self) -> None:
        limited, free = replace(GRANT, name="limited", rate=Rate(1, 1)), replace(GRANT, name="free")
        rules = Policy([limited, free]).rights(AGENT).sign("shop-1")
        assert decide(rules, SigningRequest(Purpose.HTTP, "p", NOW), lambda _: 0.0).name == "limited"
        assert decide(rules, SigningRequest(Purpose.HTTP, "p", NOW), lambda _: 2.0).name == "free"
        with pytest.raises(KeydError) as caught:
            decide(rules[:1], SigningRequest(Purpose.HTTP, "p", NOW), lambda _: 2.0)
        assert (caught.value.reason, caught.value.metadata["retry_after"]) == ("RATE", "2.000")


class TestPrincipals:
    def rights(self, *patterns: PrincipalPattern, who: Principal = AGENT) -> bool:
        return bool(Policy([replace(GRANT, principals=patterns)]).rights(who).know("shop-1"))

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            (PrincipalPattern(uid=1001), True),
            (PrincipalPattern(uid=1002), False),
            (PrincipalPattern(uid=1001, executable="/usr/bin/agent"), True),
            (PrincipalPattern(uid=1001, executable="/usr/bin/other"), False),
            (PrincipalPattern(uid=1002, executable="/usr/bin/agent"), False),
            (PrincipalPattern(gid=1001), True),
            (PrincipalPattern(gid=27), True),
            (PrincipalPattern(gid=28), False),
            (PrincipalPattern(unit="shop.service"), True),
            (PrincipalPattern(unit="shop*"), True),
            (PrincipalPattern(unit="till.service"), False),
            (PrincipalPattern(user_unit="shop.service"), False),
            (PrincipalPattern(cgroup="*"), False),
            (PrincipalPattern(container="a" * 64), False),
            (PrincipalPattern(spiffe="spiffe://e.org/**"), False),
            (PrincipalPattern(dns="*.example"), False),
            (PrincipalPattern(socket="shop"), False),
            (PrincipalPattern(loopback=True), False),
            (PrincipalPattern(), False),
        ],
        ids=str,
    )
    def test_a_process(self, pattern: PrincipalPattern, expected: bool) -> None:
        assert self.rights(pattern) is expected

    def test_any_pattern_will_do(self) -> None:
        assert self.rights(PrincipalPattern(uid=1), PrincipalPattern(uid=1001))

    @pytest.mark.parametrize(
        ("name", "expected"),
        [("a.agents.example", True), ("agents.example", False), ("evil-agents.example", False), ("*.agents.example", False)],
    )
    def test_dns(self, name: str, expected: bool) -> None:
        who = Principal(dns_names=("other.example", name))
        assert self.rights(PrincipalPattern(dns="*.agents.example"), who=who) is expected
        assert self.rights(PrincipalPattern(dns="other.example"), who=who)

    def test_loopback_is_who_shows_nothing(self) -> None:
        pattern = PrincipalPattern(loopback=True)
        assert self.rights(pattern, who=Principal())
        for who in (AGENT, Principal(socket="x"), Principal(spiffe_id="spiffe://e.org/a"), Principal(dns_names=("a.example",))):
            assert not self.rights(pattern, who=who)

    def test_two_processes_of_one_user_have_different_keys(self) -> None:
        policy = Policy(
            [
                replace(GRANT, name="a", principals=(PrincipalPattern(uid=1001, executable="/a"),), keys=("a",)),
                replace(GRANT, name="b", principals=(PrincipalPattern(uid=1001, executable="/b"),), keys=("b",)),
            ]
        )
        one, two = Principal(uid=1001, executable="/a"), Principal(uid=1001, executable="/b")
        assert (policy.rights(one).know("a"), policy.rights(one).know("b")) == (True, False)
        assert (policy.rights(two).know("a"), policy.rights(two).know("b")) == (False, True)

    def test_rights_are_of_the_principal_and_not_of_one_that_was_there_before(self) -> None:
        policy = Policy([GRANT])
        for uid in range(10_000):  # objects come and go, and so do their addresses
            assert policy.rights(Principal(uid=uid)).know("shop-1") is (uid == 1001)
        assert len(policy._rights) <= 4096


class TestKeys:
    def test_the_message_is_the_same_whether_or_not_there_is_such_a_key(self) -> None:
        with pytest.raises(GrantError) as caught:
            Policy([GRANT]).rights(AGENT).sign("other")
        expected = "no grant lets uid:1001 executable:/usr/bin/agent unit:shop.service use key 'other'; "
        assert str(caught.value).startswith(expected)

    @pytest.mark.parametrize("name", ["x" * 1_000_000, "a\nb", "", "\ud800"])
    def test_what_cannot_be_a_name_is_not_repeated(self, name: str) -> None:
        with pytest.raises(GrantError) as caught:
            Policy([GRANT]).rights(AGENT).need(name)
        assert "use key of that name" in str(caught.value)

    def test_a_grant_without_purposes_signs_nothing(self) -> None:
        rights = Policy([replace(GRANT, purposes=frozenset(), operations=frozenset({"get_key"}))]).rights(AGENT)
        rights.need("shop-1")
        with pytest.raises(GrantError):
            rights.sign("shop-1")


class TestOperators:
    OPERATOR = replace(GRANT, name="ops", purposes=frozenset(), operations=frozenset({"rotate_key", "list_backends"}))

    def may(self, policy: Policy, who: Principal, operation: str = "rotate_key", key: str | None = "shop-1") -> bool:
        try:
            policy.rights(who).operate(operation, key)
        except GrantError:
            return False
        return True

    def test_by_grant(self) -> None:
        policy = Policy([self.OPERATOR], owners={0})
        assert self.may(policy, AGENT)
        assert self.may(policy, AGENT, "list_backends", None)
        assert not self.may(policy, AGENT, "destroy_version")
        assert not self.may(policy, AGENT, "rotate_key", "other")
        assert not self.may(policy, Principal(uid=1002))
        assert not self.may(policy, Principal(uid=0))  # operators are by grants alone from the first on

    def test_without_one_the_owners_administrate_and_do_not_sign(self) -> None:
        policy = Policy([GRANT], owners={0, 500})
        for uid in (0, 500):
            assert self.may(policy, Principal(uid=uid), "destroy_version", "anything")
            with pytest.raises(GrantError):
                policy.rights(Principal(uid=uid)).sign("shop-1")
        assert not self.may(policy, AGENT)

    def test_without_any_grant_the_owners_sign(self) -> None:
        policy = Policy(owners={0, 500})
        for purpose in Purpose:
            rules = policy.rights(Principal(uid=500)).sign("shop-1")
            assert decide(rules, SigningRequest(purpose, "p", NOW)).name == "(owner)"
        for who in (
            AGENT,
            Principal(),
            Principal(uid=0, socket="shop"),
            Principal(dns_names=("a",)),
            Principal(spiffe_id="x", uid=0),
        ):
            with pytest.raises(GrantError):
                policy.rights(who).sign("shop-1")
            assert not self.may(policy, who)
