"""The cases of h2spec (github.com/summerwind/h2spec 2.6), under its names and numbers, with the section of RFC 9113 that replaced its
RFC 7540; what it accepts is accepted here.

    python3 tests/conformance/h2spec.py --plain 127.0.0.1:9080 --tls 127.0.0.1:9443 --name h2.test [--only http2/5.1]

The path / must be answered with a body of at least five bytes.
"""

import argparse

import h2spec_generic
import h2spec_http2
from frames import Connection, Target
from report import Suite, end

SUITE = Suite()
h2spec_generic.declare(SUITE)
h2spec_http2.declare(SUITE)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--plain", help="host:port that speaks HTTP/2 in the clear")
    options.add_argument("--tls", help="host:port that speaks it with TLS")
    options.add_argument("--name", default="h2.test", help="the server's name for --tls")
    options.add_argument("--only", help="cases whose name begins so")
    given = options.parse_args()
    passed = []
    if given.plain:
        target = Target(given.plain)
        passed.append(SUITE.run("h2", lambda: Opened(target), given.only))
    if given.tls:
        secure = Target(given.tls, tls=given.name)
        passed.append(SUITE.run("h2+tls", lambda: Opened(secure), given.only))
    end(*passed)


class Opened:
    """A case's place: it opens one connection, with or without a greeting."""

    def __init__(self, target):
        self.target = target

    def hello(self):
        return Connection(self.target)

    def raw(self):
        return Connection(self.target, hello=False)


if __name__ == "__main__":
    main()
