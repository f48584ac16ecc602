"""The names that the requirement documents use, as thin fronts; nothing else imports them."""
