"""Fuzzing: what anybody can send, against what must hold for every input."""

#: Largest input of each target, in bytes. What is beyond the limits of the parsers is refused by its size alone.
MAX_LENGTH = {"base": 4096, "unsigned-base": 2048, "token": 4096, "signature-key": 4096, "handlers": 4096}

#: What inputs are made of.
DICTIONARY = [
    '"@method": GET', '"@authority": ', '"@path": /', '"@query": ?', '"@target-uri": https://', '"@query-param";name="', '"@status"', '"@scheme"', '"@request-target"',
    '\n"@signature-params": (', '" "', ";created=1800000000", ";expires=", ';keyid="', ';alg="ed25519"', ';nonce="', ';tag="web-bot-auth"', ';tag="http-message-signatures-directory"',
    ";req", ";sf", ";bs", ";tr", ';key="', '"signature-key": sig=', "hwk", "jwt", "jwks_uri", "jkt-jwt", ';kty="OKP"', ';crv="Ed25519"', ';x="', ';jwt="', ";cache", "=?1", "=?0", '\\"', "\\\\",
    '"alg":"Ed25519"', '"typ":"JWT"', '"typ":"aa-agent+jwt"', '"typ":"jkt-s256+jwt"', '"kid":"key-1"', '"exp":1800000060', '"iat":', '"nbf":', '"cnf":{"jwk":', '"jkt":"', '"jwk":{', '"EXP"', "\\u0065", "\\ud800",
    "null", "true", "NaN", "1e400", "9999999999999999999", '{"', '"}', "[[[[", "eyJ", "content-digest", "content-type", "authorization", "poqkLGiymh_W0uP6PZFw-dvez3QJT5SolqXBCW38r0U",
]  # fmt: skip
