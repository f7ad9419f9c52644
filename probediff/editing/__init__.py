"""What noises that resemble an image are for (P2, section 6): the commands search-noise, vary and edit."""
