"""Who may do what: credentials held and issued, revocation, decisions, presentations, receipts."""
