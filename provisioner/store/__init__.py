"""Records and events, kept in a database; one transaction for each call.

Takes: records and questions.
Gives: records, changed by conditions and never by assumption.
May import: manifest, trust, model, errors, events
May touch: the database
"""
