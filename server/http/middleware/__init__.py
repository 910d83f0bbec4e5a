"""What a request passes before its route: access, tokens, CORS, admission."""
