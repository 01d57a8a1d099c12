#!/usr/bin/env python3
"""Prints the tables of docs/portability.md from reports of `sdmoe verify --json`.

    scripts/portability.py lavapipe.json swiftshader.json
"""

import json
import sys
import time


def cell(text):
    return str(text).replace("|", "\\|").replace("\n", " ")


def row(values):
    print("| " + " | ".join(cell(value) for value in values) + " |")


def main():
    results = []
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as file:
            report = json.load(file)
        results += [(report, adapter) for adapter in report["adapters"]]
    row(["date", "adapter", "driver", "backend", "system", "sdmoe, wgpu, naga", "level", "kernels", "passed", "failed", "known", "not run", "seconds"])
    row(["---"] * 13)
    for report, adapter in results:
        header, host = adapter["header"], report["host"]
        count = lambda outcome: sum(case["outcome"] == outcome for case in adapter["cases"])
        row([
            time.strftime("%Y-%m-%d", time.gmtime(report["unix_time"])),
            header["name"],
            header["driver"],
            header["backend"],
            host["os"].split(", ")[1] if ", " in host["os"] else host["os"],
            ", ".join([host["sdmoe"], host["wgpu"], host["naga"]]),
            report["level"],
            ", ".join(sorted({case["variant"] for case in adapter["cases"] if case["outcome"] != "not_run"} - {"driver"})),
            count("passed"),
            count("failed"),
            count("known_failure"),
            count("not_run"),
            round(adapter["seconds"]),
        ])
    print()
    for _, adapter in results:
        title = f"{adapter['header']['name']} ({adapter['header']['driver']})"
        for case in adapter["cases"]:
            if case["outcome"] in ("failed", "known_failure"):
                reason = f"; {case['reason']}" if "reason" in case else ""
                print(f"- {title}: {case['outcome'].replace('_', ' ')}: `{case['name']}` ({case['variant']}): {cell(case['message'])}{reason}")
    print()
    for _, adapter in results:
        title = f"{adapter['header']['name']} ({adapter['header']['driver']})"
        for case in adapter["cases"]:
            for note in case.get("notes", []):
                print(f"- {title}: `{case['name']}` ({case['variant']}): {cell(note)}")


main()
