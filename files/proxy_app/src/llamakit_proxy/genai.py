"""What OpenTelemetry's conventions for generative AI call the things of this proxy."""

OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/responses": "chat",
    "/v1/embeddings": "embeddings",
}
"""gen_ai.operation.name of each path that asks a model for something."""

PROVIDER = "llamakit"
"""gen_ai.provider.name."""
