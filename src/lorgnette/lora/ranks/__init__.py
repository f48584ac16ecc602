"""Which rank where: from data (EVA), from budgets, from what was trained."""
