"""Folders of 21-number labels."""
