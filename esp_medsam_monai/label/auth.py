"""Who asks: tokens of an OpenID realm (Keycloak, for instance) where ``MONAI_LABEL_AUTH_ENABLE`` is set.

MONAI Label's own check names no signature algorithm, which PyJWT refuses since its version 2: with it no token is ever
accepted. And while a realm does not answer, all other requests wait, and the answer is a bare 500.
"""

from __future__ import annotations

from typing import Any

import jwt
import requests
from fastapi import Depends, FastAPI, HTTPException
from monailabel.config import settings
from monailabel.endpoints.user.auth import User, get_current_user, get_public_key, oauth2_scheme

__all__ = ["ALGORITHMS", "check_tokens", "user_of_token"]

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
"""Signatures with a public key; a token says itself which it has, and must not choose one without a secret."""


def check_tokens(app: FastAPI) -> None:
    """Let an application of MONAI Label check tokens with :func:`user_of_token`, if its settings ask for tokens."""
    if settings.MONAI_LABEL_AUTH_ENABLE:
        app.dependency_overrides[get_current_user] = user_of_token


def user_of_token(token: str = Depends(oauth2_scheme)) -> User:
    """The user whom a token names. No coroutine, so that others do not wait while the realm is asked for its key.

    Args:
        token: JSON Web Token, signed by the realm.

    Raises:
        HTTPException: 401 when the token does not count, 503 when the realm cannot be asked.
    """
    try:
        key = get_public_key(settings.MONAI_LABEL_AUTH_REALM_URI)
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise HTTPException(
            503,
            f"NO_REALM: {settings.MONAI_LABEL_AUTH_REALM_URI} gave no public key ({type(error).__name__}); start it, or"
            " correct MONAI_LABEL_AUTH_REALM_URI.",
        ) from error
    try:
        claims = jwt.decode(token, key, algorithms=ALGORITHMS, options={"verify_aud": False})
        return User(
            username=claims[settings.MONAI_LABEL_AUTH_TOKEN_USERNAME],
            email=claims.get(settings.MONAI_LABEL_AUTH_TOKEN_EMAIL),
            name=claims.get(settings.MONAI_LABEL_AUTH_TOKEN_NAME),
            roles=_roles(claims),
        )
    except (jwt.PyJWTError, KeyError, ValueError) as error:
        sentence = f"NO_ACCESS: the token does not count ({type(error).__name__}); log in again."
        raise HTTPException(401, sentence, headers={"WWW-Authenticate": "Bearer"}) from error


def _roles(claims: Any) -> list[str]:
    """Roles in a token; the setting names the way to them, with # between the steps."""
    for step in settings.MONAI_LABEL_AUTH_TOKEN_ROLES.split("#"):
        claims = claims.get(step) if isinstance(claims, dict) else None
    return claims if isinstance(claims, list) else []
