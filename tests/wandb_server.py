"""A wandb server on loopback for tests: it answers the GraphQL queries of wandb's client."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import graphql
from graphql.language import ast


@dataclass(frozen=True)
class StoredRun:
    """A run on the server. history: rows with their step under ``_step``."""

    name: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    state: str = "finished"

    def fields(self) -> dict[str, Any]:
        """Return the fields of GraphQL's Run; those with arguments are functions."""
        last = max((row["_step"] for row in self.history), default=-1)

        def page(minStep: int = 0, maxStep: int = 1 << 62, samples: int = 500) -> list[str]:
            return [json.dumps(row) for row in self.history if minStep <= row["_step"] < maxStep][:samples]

        absent = ("jobType", "sweepName", "commit", "description", "notes", "group")
        return dict.fromkeys(absent) | {
            "id": base64.b64encode(self.name.encode()).decode(),
            "name": self.name,
            "displayName": self.name,
            "projectId": "1",
            "state": self.state,
            "tags": [],
            "readOnly": False,
            "createdAt": "2026-01-01T00:00:00",
            "heartbeatAt": "2026-01-01T00:00:00",
            "user": {"name": "reader", "username": "reader"},
            "systemMetrics": "{}",
            "config": json.dumps({key: {"value": value} for key, value in self.config.items()}),
            "summaryMetrics": json.dumps(self.summary),
            "historyLineCount": len(self.history),
            "historyKeys": {"sets": [], "keys": {}, "lastStep": last},
            "history": page,
            "parquetHistory": lambda liveKeys=(): {"parquetUrls": [], "liveData": []},
        }


@dataclass
class WandbServer:
    """``with WandbServer("team", "project", runs) as server`` listens at ``server.url``. status: of the responses."""

    entity: str
    project: str
    runs: Sequence[StoredRun]
    status: int = 200
    queries: list[str] = field(default_factory=list)

    def __enter__(self) -> WandbServer:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body in one packet.
            wbufsize = -1

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                content = json.dumps(server.answer(request["query"], request.get("variables") or {})).encode()
                self.send_response(server.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        if self.status != 200:
            return {"errors": [{"message": f"refused with {self.status}"}]}
        self.queries.append(query)
        try:
            return {"data": _execute(graphql.parse(query), variables, self._root())}
        except (KeyError, TypeError) as error:
            return {"errors": [{"message": f"no such field: {error}"}], "data": None}

    def _root(self) -> dict[str, Any]:
        def runs(first: int = 50, after: str = "-1", order: str = "", filters: str = "") -> dict[str, Any]:
            start = int(after) + 1
            chosen = list(enumerate(self.runs))[start : start + first]
            edges = [{"node": run.fields(), "cursor": str(place)} for place, run in chosen]
            more = start + first < len(self.runs)
            return {"edges": edges, "pageInfo": {"endCursor": str(start + len(chosen) - 1), "hasNextPage": more}}

        fields = {
            "internalId": "1",
            "readOnly": False,
            "runCount": lambda filters="": len(self.runs),
            "runs": runs,
            "run": lambda name: next((run.fields() for run in self.runs if run.name == name), None),
        }
        viewer = {"id": "1", "entity": self.entity, "username": "reader", "email": "", "flags": "{}"}
        return {
            "viewer": viewer | {"teams": {"edges": [{"node": {"name": self.entity}}]}},
            "project": lambda name, entityName: fields if (entityName, name) == (self.entity, self.project) else None,
        }


def _execute(document: ast.DocumentNode, variables: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """Return exactly the fields that the query selects; raises KeyError for an unknown field."""
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, ast.FragmentDefinitionNode)}
    operation = next(node for node in document.definitions if isinstance(node, ast.OperationDefinitionNode))
    defaults = {
        node.variable.name.value: graphql.value_from_ast_untyped(node.default_value)
        for node in operation.variable_definitions or ()
        if node.default_value
    }
    values = defaults | dict(variables)

    def resolve(value: Mapping[str, Any], node: ast.FieldNode) -> Any:
        field: Any | Callable[..., Any] = value[node.name.value]
        if not callable(field):
            return field
        arguments = {a.name.value: graphql.value_from_ast_untyped(a.value, values) for a in node.arguments or ()}
        return field(**{name: argument for name, argument in arguments.items() if argument is not None})

    def select(value: Any, selections: ast.SelectionSetNode | None) -> Any:
        if value is None or selections is None:
            return value
        if isinstance(value, list):
            return [select(item, selections) for item in value]
        answer: dict[str, Any] = {}
        for node in selections.selections:
            if isinstance(node, ast.FragmentSpreadNode):
                answer |= select(value, fragments[node.name.value].selection_set)
            elif isinstance(node, ast.FieldNode):
                answer[(node.alias or node.name).value] = select(resolve(value, node), node.selection_set)
        return answer

    return select(root, operation.selection_set)
