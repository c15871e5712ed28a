"""What is known and shown: metrics, health, problems, and the queries behind the API and the page."""
