"""Privacy audit: attacks on what leaves, run on the site's own data before anything leaves (SECURITY, section 2)."""
