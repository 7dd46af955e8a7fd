"""How OpenAI, OpenRouter and Moonshot word the same things.

Source: the providers' pages on errors, limits and streaming, and what their users pasted into issues, read
2026-11.
"""

import json
import time
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

Name = Literal["openai", "openrouter", "moonshot"]

Refusal = tuple[int, dict[str, str], bytes]
"""(status, headers, body)"""


@dataclass(frozen=True)
class Dialect:
    """One provider's way to put it."""

    name: Name

    def error(
        self, status: int, message: str, *, code: str = "", metadata: dict[str, Any] | None = None
    ) -> bytes:
        if self.name == "openrouter":
            inner: dict[str, Any] = {"message": message, "code": status}
            if metadata is not None:
                inner["metadata"] = metadata
            return json.dumps({"error": inner, "user_id": "user_made_up"}).encode()
        if self.name == "moonshot":
            return json.dumps(
                {"error": {"message": message, "type": code or "invalid_request_error"}}
            ).encode()
        inner = {"message": message, "type": code or "invalid_request_error", "param": None, "code": code}
        return json.dumps({"error": inner}).encode()

    def slow_down(self, *, after_s: float | None, window: str = "per-min") -> Refusal:
        """Write a 429, with the time of the reset in this provider's own place."""
        if self.name == "openrouter":
            headers = {}
            if after_s is not None:
                headers = {
                    "X-RateLimit-Limit": "20",
                    "X-RateLimit-Remaining": "0",
                    "X-RateLimit-Reset": str(int((time.time() + after_s) * 1000)),
                }
            text = f"Rate limit exceeded: free-models-{window}. "
            if window == "per-day":
                text += "Add 10 credits to unlock 1000 free model requests per day"
            return 429, headers, self.error(429, text, metadata={"headers": headers, "provider_name": None})
        if self.name == "moonshot":
            again = f", please try again after {after_s:g} seconds" if after_s is not None else ""
            text = f"Your account org-made-up<ak-made-up> request reached max request: 3{again}"
            return 429, {}, self.error(429, text, code="rate_limit_reached_error")
        headers = {} if after_s is None else {"Retry-After": f"{after_s:g}"}
        return 429, headers, self.error(429, "Rate limit reached for requests", code="rate_limit_exceeded")

    def no_money(self) -> Refusal:
        if self.name == "openrouter":
            text = "Insufficient credits. Add more using https://openrouter.example/settings/credits"
            return 402, {}, self.error(402, text)
        if self.name == "moonshot":
            text = "Your account org-made-up is suspended, please check your plan and billing details"
            return 429, {}, self.error(429, text, code="exceeded_current_quota_error")
        text = "You exceeded your current quota, please check your plan and billing details."
        return 429, {}, self.error(429, text, code="insufficient_quota")

    def no_model(self, model: str) -> Refusal:
        if self.name == "openrouter":
            return 404, {}, self.error(404, f"No endpoints found for {model}.")
        if self.name == "moonshot":
            text = f"Not found the model {model} or Permission denied"
            return 404, {}, self.error(404, text, code="resource_not_found_error")
        text = f"The model `{model}` does not exist or you do not have access to it."
        return 404, {}, self.error(404, text, code="model_not_found")

    def wrong_key(self) -> Refusal:
        code = "incorrect_api_key_error" if self.name == "moonshot" else "invalid_api_key"
        return 401, {}, self.error(401, "No auth credentials found", code=code)

    def refused_content(self, prompt: str) -> Refusal:
        if self.name == "openrouter":
            metadata = {"reasons": ["violence"], "flagged_input": prompt[:100], "provider_name": "OpenAI"}
            return 403, {}, self.error(403, "Your input was flagged", metadata=metadata)
        if self.name == "moonshot":
            text = "The request was rejected because it was considered high risk"
            return 400, {}, self.error(400, text, code="content_filter")
        text = f"Your request was rejected as a result of our safety system: {prompt[:50]}"
        return 400, {}, self.error(400, text, code="content_policy_violation")

    def too_long(self, asked: int, context: int) -> Refusal:
        if self.name == "moonshot":
            text = f"Invalid request: Your request exceeded model token limit: {context} (requested: {asked})"
            return 400, {}, self.error(400, text)
        text = (
            f"This endpoint's maximum context length is {context} tokens. However, you requested about "
            f"{asked} tokens (of text input). Please reduce the length of either one."
        )
        return 400, {}, self.error(400, text, code="context_length_exceeded" if self.name == "openai" else "")

    def account(self, credit_usd: Decimal | None, *, is_free_tier: bool) -> tuple[str, dict[str, Any]] | None:
        """Write what is left of the account, and say where that is asked for; None: nowhere."""
        if self.name == "openrouter":
            told = {
                "label": "sk-or-v1-mad...eup",
                "limit": None if credit_usd is None else 20,
                "limit_remaining": None if credit_usd is None else float(credit_usd),
                "usage": 3.5,
                "is_free_tier": is_free_tier,
                "rate_limit": {"requests": -1, "interval": "10s"},
            }
            return "/key", {"data": told}
        if self.name == "moonshot":
            balance = float(20 if credit_usd is None else credit_usd)
            told = {"available_balance": balance, "voucher_balance": 0, "cash_balance": balance}
            return "/users/me/balance", {"code": 0, "data": told, "scode": "0x0", "status": True}
        return None

    def usage(self, usage: dict[str, Any], cost_usd: str) -> dict[str, Any]:
        """Add what only this provider tells."""
        cached = usage.pop("cached_tokens")
        if self.name == "moonshot":
            return {**usage, "cached_tokens": cached}
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
        return {**usage, "cost": float(cost_usd)} if self.name == "openrouter" else usage
