"""What hashing doesn't protect: how long it takes to try every phone number of a country against known hashes.

    python -m bench.guessing

Whoever has seen what apps send (SHA-256 of number, medium and pepper), and knows the pepper, which every account is
told, needs nothing else. One core, in processor time, so that it doesn't matter who else is at work; and what is counted
is numbers, not hardware: a graphics card does the same thousands of times as fast.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import phonenumbers
from phonenumbers import PhoneNumber, PhoneNumberType

_PEPPER = "matrixrocksmatrixrocksmatrixrock"
_TRIES = 2_000_000
_MOBILE = {PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE_OR_MOBILE}
_SHOWN = ("IS", "CH", "FR", "DE", "GB", "US")
_LOWEST_LENGTH, _HIGHEST_LENGTH = 4, 14


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast somebody guesses.

    Attributes:
        how: by what means.
        per_second: guesses, by one core.
    """

    how: str
    per_second: float


def by_python() -> Rate:
    """As anybody can write it in a minute: hash numbers, and look whether one is among those that were seen."""
    seen = {hashlib.sha256(f"4915{number} msisdn {_PEPPER}".encode()).digest() for number in range(1000)}
    sha256, suffix, found = hashlib.sha256, f" msisdn {_PEPPER}".encode(), 0
    began = time.process_time()
    for number in range(10_000_000_000, 10_000_000_000 + _TRIES):
        if sha256(b"49%d%b" % (number, suffix)).digest() in seen:
            found += 1
    took = time.process_time() - began
    assert not found
    return Rate("Python, `hashlib`", _TRIES / took)


def by_openssl() -> Rate | None:
    """As a program does it that is made for it; None where there is no openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        return None
    # A number, the medium and a pepper of 32 characters fit into 53 bytes.
    command = [openssl, "speed", "-seconds", "3", "-bytes", "53", "-evp", "sha256"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    counted = re.search(r"(\d+) \w+ ops in ([\d.]+)s", printed.stdout + printed.stderr)
    if counted is None:
        counted = re.search(r": (\d+) \S+'?s in ([\d.]+)s", printed.stdout + printed.stderr)
    return None if counted is None else Rate("C, OpenSSL", int(counted[1]) / float(counted[2]))


def mobile_numbers(region: str, samples: int, chance: random.Random) -> float:
    """How many mobile numbers a region's plan has room for, as `phonenumbers` knows it: counted by a sample."""
    code = phonenumbers.country_code_for_region(region)
    total = 0.0
    for length in range(_LOWEST_LENGTH, _HIGHEST_LENGTH + 1):
        lowest, highest = 10 ** (length - 1), 10**length - 1
        hits = sum(
            phonenumbers.number_type(number) in _MOBILE and phonenumbers.region_code_for_number(number) == region
            for number in (
                PhoneNumber(country_code=code, national_number=chance.randint(lowest, highest))
                for _ in range(samples if _is_possible(code, lowest) else 0)
            )
        )
        total += hits / samples * (highest - lowest + 1)
    return total


def _is_possible(code: int, number: int) -> bool:
    return phonenumbers.is_possible_number(PhoneNumber(country_code=code, national_number=number))


def lasting(seconds: float) -> str:
    """A length of time for people."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def report(samples: int) -> Iterator[str]:
    """The lines of it."""
    rates = [rate for rate in (by_python(), by_openssl()) if rate is not None]
    for rate in rates:
        yield f"{rate.how}: {rate.per_second / 1e6:.1f} million guesses a second by one core"
    yield ""
    yield f"| Mobile numbers of | how many | {' | '.join(f'{rate.how}, one core' for rate in rates)} |"
    yield f"|---|---|{'---|' * len(rates)}"
    chance = random.Random(1)
    for region in _SHOWN:
        numbers = mobile_numbers(region, samples, chance)
        times = " | ".join(lasting(numbers / rate.per_second) for rate in rates)
        yield f"| {region} | {numbers / 1e6:,.0f} million | {times} |"


def main() -> None:
    """Measure, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_000, help="numbers drawn per region and length")
    for line in report(parser.parse_args().samples):
        print(line, flush=True)


if __name__ == "__main__":
    main()
