"""What services say to each other: envelope, topics, and one module of events per producer."""
