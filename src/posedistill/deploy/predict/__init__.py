"""Poses in photographs and videos, told and drawn: of objects, of a scene, of categories."""
