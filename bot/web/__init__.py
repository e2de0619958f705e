"""HTTP: OpenAI's API, webhooks, and how the service is. Handlers parse, authorise, call and serialise."""
