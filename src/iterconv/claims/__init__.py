"""The paper's claims as functions (`about_toys` and so on), and verdicts on them."""
