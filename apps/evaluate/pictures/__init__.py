"""Pictures of folders: reading them, their prompts, their features, spread over processes."""
