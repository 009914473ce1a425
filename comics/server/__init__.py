"""A web page and an API that look at one uploaded picture or short video at a time.

Needs the extra "serve" (FastAPI, uvicorn, python-multipart). The way of an upload::

    browser -> shield (headers, host) -> gate (places, bytes, time) -> app -> worker -> detection
"""
