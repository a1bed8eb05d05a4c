#!/usr/bin/env python3
"""Read the event types and their payload schemas from WorkOS's Python client, which is generated from its API description.

  catalogue.py extract DIR         print one JSON line per event type: type, subscribable, schema of data (JSON Schema)
  catalogue.py compare DIR TABLE   print every difference to relay's table; exit 1 if there is one

DIR is the unpacked package `workos`. The package is parsed, never run. Something that this program does not understand ends it with
the file and the line.
"""

import ast
import json
import pathlib
import sys

SCALARS = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "datetime": {"type": "string", "format": "date-time"},
    "Any": {},
}


class NotUnderstood(Exception):
    """The package has a form that is not known here."""


class Package:
    """The classes and type aliases of the package, by name."""

    def __init__(self, root):
        self.root = pathlib.Path(root)
        self.classes, self.aliases, self.where = {}, {}, {}
        for path in sorted(self.root.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    self.classes.setdefault(node.name, node)
                    self.where.setdefault(node.name, path)
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and ast.unparse(node.annotation) == "TypeAlias":
                    self.aliases.setdefault(node.target.id, node.value)
                    self.where.setdefault(node.target.id, path)
                elif isinstance(node, ast.ImportFrom):
                    for name in node.names:
                        if name.asname and name.asname != name.name:
                            self.aliases.setdefault(name.asname, ast.Name(id=name.name, lineno=node.lineno))

    def fail(self, name, node, what):
        raise NotUnderstood(f"{self.where.get(name, self.root)}:{getattr(node, 'lineno', 0)}: {name}: {what}")

    def schema(self, owner, node, seen=()):
        """Return the JSON Schema of an annotation, and whether it may be null."""
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return self.union(owner, flatten(node), seen)
        if isinstance(node, ast.Constant) and node.value is None:
            return None, True
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return self.schema(owner, ast.parse(node.value, mode="eval").body, seen)
        if isinstance(node, ast.Subscript):
            return self.generic(owner, node, seen)
        if isinstance(node, ast.Name):
            return self.named(owner, node, seen)
        self.fail(owner, node, f"the type {ast.unparse(node)} is not understood")

    def union(self, owner, nodes, seen):
        variants, nullable = [], False
        for n in nodes:
            if isinstance(n, ast.Subscript) and ast.unparse(n) == "Literal['null']":
                nullable = True
                continue
            s, null = self.schema(owner, n, seen)
            nullable = nullable or null
            if s is not None and s not in variants:
                variants.append(s)
        if not variants:
            self.fail(owner, nodes[0], "a union of nothing")
        return (variants[0] if len(variants) == 1 else {"anyOf": variants}), nullable

    def generic(self, owner, node, seen):
        base = ast.unparse(node.value)
        if base == "Literal":
            values = [ast.literal_eval(v) for v in (node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice])]
            return ({"const": values[0]} if len(values) == 1 else {"enum": sorted(values, key=str)}), False
        if base in ("list", "List"):
            items, null = self.schema(owner, node.slice, seen)
            return {"type": "array", "items": orNull(items, null)}, False
        if base in ("dict", "Dict"):
            values, null = self.schema(owner, node.slice.elts[1], seen)
            return {"type": "object", "additionalProperties": orNull(values, null) or True}, False
        if base == "Union":
            return self.union(owner, node.slice.elts, seen)
        if base == "Optional":
            s, _ = self.schema(owner, node.slice, seen)
            return s, True
        self.fail(owner, node, f"the type {base}[] is not understood")

    def named(self, owner, node, seen):
        name = node.id
        if name in SCALARS:
            return dict(SCALARS[name]), False
        if name + "Literal" in self.aliases and name not in self.classes:
            return self.schema(owner, self.aliases[name + "Literal"], seen)
        if name in self.classes:
            return self.object(name, seen), False
        if name in self.aliases and name not in seen:
            return self.schema(owner, self.aliases[name], (*seen, name))
        self.fail(owner, node, f"nothing is named {name}")

    def object(self, name, seen=()):
        """Return the schema of a class: an enumeration or an object."""
        if name in seen:
            self.fail(name, self.classes[name], "it contains itself")
        node = self.classes[name]
        bases = [ast.unparse(b) for b in node.bases]
        if "Enum" in bases:
            values = [b.value.value for b in node.body if isinstance(b, ast.Assign) and isinstance(b.value, ast.Constant)]
            return {"type": "string", "enum": sorted(values, key=str)}
        properties, required = {}, []
        for b in node.body:
            if not isinstance(b, ast.AnnAssign) or not isinstance(b.target, ast.Name) or ast.unparse(b.annotation).startswith("ClassVar"):
                continue
            field = b.target.id
            s, null = self.schema(name, b.annotation, (*seen, name))
            if s == {"type": "string"} and field.endswith("_at"):
                s = dict(SCALARS["datetime"])
            properties[field] = orNull(s, null)
            if b.value is None:
                required.append(field)
        return {"type": "object", "properties": properties, "required": required}


def orNull(schema, null):
    """Return schema, which may be null as well if null is set."""
    if not null or schema is None or schema == {}:
        return schema
    if isinstance(schema.get("type"), str) and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [*schema.get("anyOf", [schema]), {"type": "null"}]}


def flatten(node):
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return flatten(node.left) + flatten(node.right)
    return [node]


def extract(root):
    """Return the facts of every event type, by name."""
    package = Package(root)
    subscribable = set(package.object("CreateWebhookEndpointEvents")["enum"])
    types = {}
    for name, node in package.classes.items():
        fields = {b.target.id: b.annotation for b in node.body if isinstance(b, ast.AnnAssign) and isinstance(b.target, ast.Name)}
        if not {"event", "data", "created_at", "object"} <= fields.keys():
            continue
        event, _ = package.schema(name, fields["event"])
        if "const" not in event:
            continue
        data, _ = package.schema(name, fields["data"], ())
        types[event["const"]] = {"type": event["const"], "subscribable": event["const"] in subscribable, "schema": data}
    if missing := subscribable - types.keys():
        raise NotUnderstood(f"no payload was found for {', '.join(sorted(missing))}")
    return dict(sorted(types.items()))


def differences(found, table):
    """Yield a line for each difference."""
    for name in sorted(found.keys() | table.keys()):
        new, old = found.get(name), table.get(name)
        if old is None:
            yield f"{name}: new in the client ({'subscribable' if new['subscribable'] else 'not subscribable'})"
        elif new is None:
            yield f"{name}: in the table, and not in the client"
        else:
            if new["subscribable"] != (old["status"] == "default"):
                yield f"{name}: subscribable is {new['subscribable']} in the client, and the status is {old['status']} in the table"
            yield from schemaDifferences(name + ": data", new["schema"], old["schema"])


def schemaDifferences(path, new, old):
    if new == old:
        return
    if new.get("type") != "object" or old.get("type") != "object" or "properties" not in new or "properties" not in old:
        yield f"{path}: {json.dumps(new, sort_keys=True)} in the client, {json.dumps(old, sort_keys=True)} in the table"
        return
    for field in sorted(new["properties"].keys() | old["properties"].keys()):
        at = f"{path}.{field}"
        if field not in old["properties"]:
            yield f"{at}: new in the client"
        elif field not in new["properties"]:
            yield f"{at}: in the table, and not in the client"
        else:
            if (field in new["required"]) != (field in old["required"]):
                yield f"{at}: may be absent in {'the table' if field in new['required'] else 'the client'} only"
            yield from schemaDifferences(at, new["properties"][field], old["properties"][field])


def readTable(path):
    table = {}
    for number, line in enumerate(pathlib.Path(path).read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            if row["status"] != "gone":
                table[row["type"]] = row
        except (ValueError, KeyError) as e:
            raise NotUnderstood(f"{path}:{number}: {e!r}") from e
    return table


def main(args):
    if len(args) == 2 and args[0] == "extract":
        for row in extract(args[1]).values():
            print(json.dumps(row, separators=(",", ":")))
        return 0
    if len(args) == 3 and args[0] == "compare":
        lines = list(differences(extract(args[1]), readTable(args[2])))
        print("\n".join(lines) if lines else "the table has every type and field of the client")
        return 1 if lines else 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except NotUnderstood as e:
        print(f"catalogue: {e}", file=sys.stderr)
        sys.exit(2)
