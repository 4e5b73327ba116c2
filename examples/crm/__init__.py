"""The rooms of the CRM demo; `crm_dashboard.py`, one folder up, is its front door."""
