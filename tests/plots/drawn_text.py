"""The words of a drawing."""

from xml.etree import ElementTree


def texts(svg: str) -> list[str]:
    return [piece.strip() for piece in ElementTree.fromstring(svg).itertext() if piece.strip()]
