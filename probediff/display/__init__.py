"""What a person sees in a terminal: progress, and names of users and files as letters that do nothing."""
