#!/usr/bin/env python3
"""Read the GET endpoints of WorkOS's API from WorkOS's Python client, or from its OpenAPI document.

  lists.py extract DIR        print one JSON line per endpoint: path, paged, query parameters; DIR is the unpacked package `workos`
  lists.py openapi FILE       the same from open-api-spec.yaml of npm's @workos/openapi-spec; needs PyYAML
  lists.py compare DIR TABLE  print every difference between the package and the endpoints of TABLE; exit 1 if there is one

The package is parsed, never run. In a path, {} stands for an id. To renew the tables of source/lists/testdata, run the first two with
the versions that testdata/README.md names, and pipe them through --only TABLE to keep the endpoints of a table.
"""

import ast
import json
import pathlib
import re
import sys


def client(root):
    """Return the endpoints of the client by path."""
    out = {}
    for path in sorted(pathlib.Path(root).rglob("_resource.py")):
        for cls in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(cls, ast.ClassDef) or cls.name.startswith("Async"):
                continue
            for method in cls.body:
                if isinstance(method, ast.FunctionDef):
                    endpoint(method, out)
    return out


def endpoint(method, out):
    """Add the endpoint that a method asks, if that is a GET."""
    for call in ast.walk(method):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        if call.func.attr not in ("request", "request_page", "request_list"):
            continue
        given = {k.arg: k.value for k in call.keywords}
        if ast.unparse(given["method"]) != "'get'":
            continue
        names = [p.value if isinstance(p, ast.Constant) else "{}" for p in given["path"].elts]
        parameters = set()
        if "params" in given:
            keys = [k.value for node in ast.walk(method) if isinstance(node, ast.Dict) for k in node.keys if isinstance(k, ast.Constant)]
            parameters = {k for k in keys if isinstance(k, str)}
        out["/" + "/".join(names)] = {"paged": call.func.attr == "request_page", "parameters": sorted(parameters)}


def openapi(path):
    """Return the endpoints of an OpenAPI document by path."""
    import yaml

    spec = yaml.safe_load(pathlib.Path(path).read_text(encoding="utf-8"))

    def resolve(node):
        while "$ref" in node:
            target = spec
            for name in node["$ref"].split("/")[1:]:
                target = target[name]
            node = target
        return node

    out = {}
    for name, item in spec["paths"].items():
        if "get" not in item:
            continue
        every = [resolve(p) for p in item["get"].get("parameters", []) + item.get("parameters", [])]
        parameters = sorted(p["name"] for p in every if p["in"] == "query")
        out[re.sub(r"\{[^}]*\}", "{}", name)] = {"paged": {"limit", "after", "order"} <= set(parameters), "parameters": parameters}
    return out


def read(path):
    rows = [json.loads(line) for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines()]
    return {r.pop("path"): r for r in rows}


def write(endpoints):
    for path, row in sorted(endpoints.items()):
        print(json.dumps({"path": path, **row}, separators=(",", ":")))


def main(args):
    only = None
    if "--only" in args:
        at = args.index("--only")
        only = read(args[at + 1])
        args = args[:at] + args[at + 2 :]
    if len(args) == 2 and args[0] in ("extract", "openapi"):
        found = client(args[1]) if args[0] == "extract" else openapi(args[1])
        write({p: row for p, row in found.items() if only is None or p in only})
        return 0
    if len(args) == 3 and args[0] == "compare":
        found, table, faults = client(args[1]), read(args[2]), 0
        for path, row in table.items():
            if found.get(path) != row:
                faults += 1
                print(f"GET {path}: {json.dumps(found.get(path))} in the client, {json.dumps(row)} in the table")
        if not faults:
            print("the client has every list as the table has it")
        return 1 if faults else 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
