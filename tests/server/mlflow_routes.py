"""Prints all that the MLflow which is installed can be asked for, as JSON; for a folder of its own.

A program, because MLflow's application is one object for the whole process.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_INI = """[mlflow]
default_permission = READ
database_uri = sqlite:///users.db
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


def main() -> None:
    Path("auth.ini").write_text(_INI)
    os.environ |= {
        "MLFLOW_AUTH_CONFIG_PATH": "auth.ini",
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "a password of some length",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a key",
        "_MLFLOW_SERVER_FILE_STORE": "sqlite:///runs.db",
        "_MLFLOW_SGI_NAME": "uvicorn",  # with FastAPI's part
    }
    from mlflow.server import app as flask_app
    from mlflow.server.auth import create_app
    from mlflow.server.graphql.graphql_schema_extensions import schema

    app = create_app()
    routes = {
        (method, rule.rule) for rule in flask_app.url_map.iter_rules() for method in rule.methods
    }
    routes |= set(of_fastapi(app.routes))
    kinds = (schema.graphql_schema.query_type, schema.graphql_schema.mutation_type)
    # HEAD comes with GET, and OPTIONS is Flask's own.
    named = sorted(route for route in routes if route[0] not in ("HEAD", "OPTIONS"))
    fields = [name for kind in kinds for name in kind.fields]
    sys.stdout.write(json.dumps({"routes": named, "graphql": fields}))


def of_fastapi(routes: list[Any]) -> Iterator[tuple[str, str]]:
    for route in routes:
        if hasattr(route, "effective_route_contexts"):  # an included router
            yield from of_fastapi(list(route.effective_route_contexts()))
        elif hasattr(route, "methods"):
            yield from ((method, route.path) for method in route.methods)
        else:
            assert route.path == "", route  # where Flask's begins


if __name__ == "__main__":
    main()
