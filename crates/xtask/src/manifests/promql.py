# Prints the metrics of PromQL queries, given as one JSON list, one a line.
import json
import sys

import promql_parser as promql


def names(node):
    if isinstance(node, promql.VectorSelector):
        yield node.name
    for part in ("vector_selector", "expr", "lhs", "rhs", "param", "args"):
        value = getattr(node, part, None)
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, promql.Expr):
                yield from names(child)


for query in json.loads(sys.argv[1]):
    try:
        tree = promql.parse(query)
    except ValueError as error:
        sys.exit(f"{query}: {error}")
    found = list(names(tree))
    if not found:
        sys.exit(f"{query}: it reads no metric")
    print("\n".join(found))
