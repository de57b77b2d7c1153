"""Schemas as people write them, two hundred by seed, for `engine/grammar.py`: each of 20 things in 10 shapes."""

from __future__ import annotations

import random
from typing import Any

TEXT = {"type": "string", "maxLength": 60}
FREE = {"type": "string"}
FLAG = {"type": "boolean"}
YEAR = {"type": "integer", "minimum": 1, "maximum": 2026}
COUNT = {"type": "integer", "minimum": 0, "maximum": 1_000_000}
AMOUNT = {"type": "number"}
CODE = {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}
DATE = {"type": "string", "format": "date"}


def words(*values: str) -> dict[str, Any]:
    """One of some words."""
    return {"enum": list(values)}


def some(item: dict[str, Any], most: int = 4) -> dict[str, Any]:
    """A list of at least one."""
    return {"type": "array", "items": item, "minItems": 1, "maxItems": most}


#: What is to be described, and fields that it may have.
THINGS: dict[str, dict[str, Any]] = {
    "a city": {
        "name": TEXT, "country": TEXT, "population": COUNT,
        "coastal": FLAG, "rivers": some(TEXT), "founded": YEAR,
    },
    "a book": {
        "title": TEXT, "author": TEXT, "year": YEAR,
        "genre": words("novel", "poetry", "history"), "summary": FREE,
    },
    "a recipe": {
        "name": TEXT, "minutes": COUNT, "ingredients": some(TEXT, 6),
        "vegan": FLAG, "difficulty": words("easy", "hard"),
    },
    "a person": {
        "name": TEXT, "age": COUNT, "email": TEXT,
        "married": FLAG, "hobbies": some(TEXT), "born": DATE,
    },
    "an order": {
        "number": CODE, "total": AMOUNT, "currency": words("EUR", "USD", "GBP"),
        "paid": FLAG, "placed": DATE,
    },
    "the weather": {
        "place": TEXT, "temperature": AMOUNT, "sky": words("clear", "cloudy", "rain"),
        "wind": AMOUNT, "warning": FLAG,
    },
    "a film": {
        "title": TEXT, "director": TEXT, "year": YEAR,
        "rating": AMOUNT, "cast": some(TEXT), "plot": FREE,
    },
    "an animal": {
        "species": TEXT, "legs": COUNT, "diet": words("plants", "meat", "both"),
        "wild": FLAG, "weight": AMOUNT,
    },
    "a meeting": {
        "subject": TEXT, "day": DATE, "people": some(TEXT),
        "online": FLAG, "minutes": COUNT, "notes": FREE,
    },
    "a product": {
        "name": TEXT, "price": AMOUNT, "stock": COUNT,
        "code": CODE, "colours": some(words("red", "green", "blue")),
    },
    "a song": {
        "title": TEXT, "artist": TEXT, "seconds": COUNT,
        "genre": words("pop", "rock", "jazz"), "live": FLAG,
    },
    "a flight": {"from": TEXT, "to": TEXT, "code": CODE, "day": DATE, "late": FLAG, "price": AMOUNT},
    "a planet": {
        "name": TEXT, "moons": COUNT, "rings": FLAG,
        "mass": AMOUNT, "kind": words("rock", "gas", "ice"),
    },
    "a bug report": {
        "title": TEXT, "severity": words("low", "high"), "steps": some(TEXT),
        "fixed": FLAG, "details": FREE,
    },
    "a football match": {"home": TEXT, "away": TEXT, "goals": some(COUNT, 2), "day": DATE, "won": FLAG},
    "a country": {"name": TEXT, "capital": TEXT, "languages": some(TEXT), "area": AMOUNT, "island": FLAG},
    "a house": {
        "street": TEXT, "rooms": COUNT, "garden": FLAG,
        "price": AMOUNT, "built": YEAR, "heating": words("gas", "wood"),
    },
    "a course": {"title": TEXT, "teacher": TEXT, "hours": COUNT, "topics": some(TEXT), "begins": DATE},
    "a plant": {
        "name": TEXT, "height": AMOUNT,
        "flowers": FLAG, "months": some(words("May", "June", "July"), 3),
    },
    "a museum": {
        "name": TEXT, "city": TEXT, "founded": YEAR,
        "free": FLAG, "rooms": COUNT, "known for": TEXT,
    },
}  # fmt: skip

SHAPES = (
    "plain",
    "optional",
    "nested",
    "list",
    "nullable",
    "referring",
    "recursive",
    "either",
    "map",
    "constant",
)


def real_schema(seed: int) -> tuple[str, dict[str, Any]]:
    """What to describe and the schema of its description; each thing in each shape."""
    draw = random.Random(f"schema {seed}")
    thing = list(THINGS)[seed % len(THINGS)]
    names = draw.sample(list(THINGS[thing]), draw.randint(3, len(THINGS[thing])))
    fields = {name: THINGS[thing][name] for name in names}
    shape = SHAPES[seed // len(THINGS) % len(SHAPES)]
    inner = record(fields)
    half = len(names) // 2
    first, rest = {n: fields[n] for n in names[:half]}, {n: fields[n] for n in names[half:]}
    match shape:
        case "optional":
            return thing, {**inner, "required": names[:1]}
        case "nested":
            return thing, record({**first, "details": record(rest)})
        case "list":
            return thing, record({"examples": some(inner, 2)})
        case "nullable":
            return thing, record({n: {"anyOf": [field, {"type": "null"}]} for n, field in fields.items()})
        case "referring":
            return thing, {**record({"one": {"$ref": "#/$defs/it"}, "more": FLAG}), "$defs": {"it": inner}}
        case "recursive":
            return thing, record({**first, "similar": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}})
        case "either":
            return thing, {"anyOf": [record(first), record(rest)]}
        case "map":
            return thing, record(
                {**first, "scores": {"type": "object", "additionalProperties": COUNT, "maxProperties": 3}}
            )
        case "constant":
            return thing, record({"kind": {"const": thing}, **fields, "version": {"const": 1}})
    return thing, inner


def record(fields: dict[str, Any]) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
