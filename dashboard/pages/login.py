"""Signing in and out, where a password is asked."""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse

from dashboard.door import Door
from dashboard.view import View

SAID = {401: "That is not the password.", 429: "Too many tries; wait a minute."}


def routes(view: View, door: Door) -> APIRouter:
    """Make the page, and what its buttons do."""
    router = APIRouter()

    @router.get("/login")
    def login_page(request: Request) -> HTMLResponse:
        return view.page(request, "login", said=None)

    @router.post("/login")
    def login(request: Request, password: Annotated[str, Form()] = "") -> Response:
        answer = door.log_in(request, password)
        said = SAID.get(answer.status_code)
        return view.page(request, "login", answer.status_code, said=said) if said else answer

    @router.post("/logout")
    def logout(request: Request) -> Response:
        return door.log_out(request)

    return router
