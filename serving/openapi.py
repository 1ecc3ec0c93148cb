"""The app's endpoints as an OpenAPI document: what clients and testing tools read."""

from typing import Any

from serving.gate import CODES

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_BINARY: Json = {"type": "string", "format": "binary"}
_SHARE: Json = {"type": "number", "minimum": 0, "maximum": 1}


def document() -> Json:
    """OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Lookout", "version": "1"},
        "security": [{}, {"token": []}],
        "paths": {
            "/predict": {
                "post": _operation(
                    "Labels one image, or a form of several",
                    {"200": _json("An answer an image", _ref("Answer"))},
                    (400, 413, 415, 408, 503),
                    requestBody=_images(),
                )
            },
            "/explain": {
                "post": _operation(
                    "An overlay of the places in an image that its label depends on",
                    {"200": {"description": "PNG", "content": {"image/png": {"schema": _BINARY}}}},
                    (400, 413, 415, 408, 503),
                    requestBody=_images(),
                    parameters=[{"name": "label", "in": "query", "schema": _TEXT}],
                )
            },
            "/feedback": {
                "post": _operation(
                    "Stores what an image shows, as a person says",
                    {"201": _json("Stored", _object(message=_TEXT))},
                    (400, 404, 413, 415, 408, 503),
                    requestBody=_body({"multipart/form-data": _ref("Correction")}),
                )
            },
            "/invocations": {
                "post": _operation(
                    "MLflow's scoring protocol",
                    {"200": _json("An answer an image", _ref("Predictions"))},
                    (400, 413, 408, 503),
                    {"415": {"description": "Another content type"}},
                    requestBody=_body({"application/json": _ref("Table")}),
                )
            },
            "/model": {
                "get": _operation(
                    "The model that answers", {"200": _json("Model", _ref("Described"))}, (503,)
                )
            },
            "/ready": {
                "get": _operation(
                    "Whether a model answers", {"200": _json("It does", {"type": "object"})}, (503,)
                )
            },
            "/live": {
                "get": _operation(
                    "Whether the process answers", {"200": _json("It does", {"type": "object"})}
                )
            },
            "/ping": {"get": _operation("As /ready, for MLflow's clients", _EMPTY, (503,))},
            "/health": {"get": _operation("As /ping", _EMPTY, (503,))},
            "/version": {"get": _operation("MLflow's version", _EMPTY, (503,))},
            "/metrics": {
                "get": _operation(
                    "Prometheus",
                    {"200": {"description": "Metrics", "content": {"text/plain": {}}}},
                )
            },
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": _SCHEMAS,
        },
    }


def _operation(
    summary: str,
    answers: Json,
    errors: tuple[int, ...] = (),
    others: Json | None = None,
    **more: Any,
) -> Json:
    told = {str(status): _json(CODES[status], _ref("Error")) for status in (401, 403, *errors)}
    return {"summary": summary, "responses": {**answers, **told, **(others or {})}, **more}


def _json(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _body(kinds: dict[str, Json]) -> Json:
    content = {kind: {"schema": schema} for kind, schema in kinds.items()}
    return {"required": True, "content": content}


def _images() -> Json:
    form = _object(image={"type": "array", "items": _BINARY, "minItems": 1})
    kinds = {"image/jpeg": _BINARY, "image/png": _BINARY, "application/octet-stream": _BINARY}
    return _body({**kinds, "multipart/form-data": form})


def _object(required: bool = True, **properties: Json) -> Json:
    schema: Json = {"type": "object", "properties": properties}
    return {**schema, "required": list(properties)} if required else schema


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


_EMPTY: Json = {"200": {"description": "It answers", "content": {"application/json": {}}}}
_ANSWERS: Json = {
    "type": "array",
    "items": _object(
        label=_TEXT,
        confidence=_SHARE,
        probabilities={"type": "object", "additionalProperties": _SHARE},
    ),
}
_SCHEMAS: Json = {
    "Error": _object(error_code=_TEXT, message=_TEXT),
    "Answer": _object(
        request_id=_TEXT, model=_object(name=_TEXT, version=_TEXT), predictions=_ANSWERS
    ),
    "Predictions": _object(predictions=_ANSWERS),
    "Described": _object(
        name=_TEXT,
        version=_TEXT,
        classes={"type": "array", "items": _TEXT},
        feedback={"type": "boolean"},
        bounds={"type": "object"},
    ),
    "Correction": {
        "type": "object",
        "properties": {"image": _BINARY, "label": _TEXT, "request_id": _TEXT},
        "required": ["image", "label"],
    },
    "Table": {
        "type": "object",
        "properties": {
            "dataframe_split": _object(
                columns={"type": "array", "items": _TEXT},
                data={"type": "array", "items": {"type": "array", "items": _TEXT}},
            )
        },
        "required": ["dataframe_split"],
        "additionalProperties": False,
    },
}
