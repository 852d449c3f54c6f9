"""Pose families, one file each; ``registry`` knows them all, ``views`` what they have in common for distillers."""
