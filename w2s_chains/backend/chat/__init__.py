"""How a conversation becomes one text: chat templates, turns as they take them, thoughts."""
