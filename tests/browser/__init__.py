"""Pages and mails in Chromium."""
