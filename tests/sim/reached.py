"""The table of `reached`: FILE.json of llvm-cov, the package, and whether to list the lines."""

import json
import pathlib
import sys


def unreached(segments):
    """Lines on which a counted region begins that was never entered. A segment: line, column, count, has_count, is_entry, gap."""
    return sorted({line for line, _, count, has_count, is_entry, gap in segments if has_count and is_entry and not gap and count == 0})


def main():
    data, package, lists_lines = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3] == "1"
    files = json.load(open(data))["data"][0]["files"]
    total = reached = 0
    for entry in sorted(files, key=lambda entry: entry["filename"]):
        path = pathlib.Path(entry["filename"])
        name = path.relative_to(package) if path.is_relative_to(package) else path
        regions = entry["summary"]["regions"]
        total, reached = total + regions["count"], reached + regions["covered"]
        print(f"{str(name):44} {regions['covered']:5} of {regions['count']:5} regions  {regions['percent']:5.1f} %")
        if lists_lines:
            source = path.read_text().splitlines()
            for line in unreached(entry["segments"]):
                print(f"    {line:5}  {source[line - 1].strip()}")
    print(f"{'together':44} {reached:5} of {total:5} regions  {100 * reached / max(total, 1):5.1f} %")


main()
