"""The cases of the Autobahn test suite for WebSocket servers (github.com/crossbario/autobahn-testsuite), under its numbers, against an echo
server straight and through the gateway. What counts is that nothing becomes worse by the gateway.

    python3 tests/conformance/autobahn.py --backend 127.0.0.1:1980 --plain 127.0.0.1:9080 --tls 127.0.0.1:9443 [--full] [--only 6.]

Sections 9, 12 and 13 run with small messages, and 12 and 13 in part; `--full` runs all of 12 and 13 with more messages. Grades are Autobahn's: OK,
NON-STRICT (right, but the server closed before it said all, or later than it might), INFO (nothing is prescribed), FAILED.
"""

import argparse
import concurrent.futures
import time
import traceback

import autobahn_cases
from report import Failed, end, summary
from websocket_wire import Multiplexed, Plain

ORDER = ["FAILED", "NON-STRICT", "OK", "INFO"]


def address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--backend", required=True, help="host:port of the echo server")
    options.add_argument("--plain", required=True, help="host:port of the gateway")
    options.add_argument("--tls", help="host:port of the gateway with TLS")
    options.add_argument("--name", default="h2.test", help="the server's name for --tls")
    options.add_argument("--full", action="store_true", help="all of sections 12 and 13")
    options.add_argument("--only", default="", help="cases whose number begins so")
    given = options.parse_args()
    ways = {"backend": Plain(address(given.backend)), "h1": Plain(address(given.plain))}
    if given.tls:
        ways["h1+tls"] = Plain(address(given.tls), given.name)
    ways["h2"] = Multiplexed(address(given.plain))
    begun = time.monotonic()
    cases = [case for case in autobahn_cases.all(given.full) if case.number.startswith(given.only)]
    work = [(case, way) for case in cases for way in ways]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        grades = dict(zip(((c.number, w) for c, w in work), pool.map(lambda cw: grade(cw[0], ways[cw[1]]), work)))
    failed, counts = [], {way: dict.fromkeys(ORDER, 0) for way in ways}
    print(f"{'':<5} {'case':<9} " + " ".join(f"{way:<11}" for way in ways))
    for case in cases:
        own = {way: grades[case.number, way] for way in ways}
        for way in ways:
            counts[way][own[way][0]] += 1
        worse = [way for way in ways if own[way][0] == "FAILED" != own["backend"][0]]
        shown = " ".join(f"{own[way][0]:<11}" for way in ways)
        why = "; ".join(f"{way}: {own[way][1]}" for way in ways if own[way][0] == "FAILED")
        print(f"{'FAIL ' if worse else 'ok   '} {case.number:<9} {shown} {case.title}{'  [' + why + ']' if why else ''}")
        if worse:
            failed.append(case.number)
    for way in ways:
        print(f"{way:<8} " + ", ".join(f"{counts[way][g]} {g}" for g in reversed(ORDER)))
    end(summary("autobahn", len(cases), failed, time.monotonic() - begun))


def grade(case, way):
    try:
        return case.run(way)
    except Failed as failure:
        return "FAILED", str(failure)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return "FAILED", f"{type(error).__name__}: {error} ({place.filename.rsplit('/', 1)[-1]}:{place.lineno})"


if __name__ == "__main__":
    main()
