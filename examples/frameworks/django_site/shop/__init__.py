"""A shop for several tenants: cached pages, template fragments and counters in the admin.

cd examples/frameworks/django_site
python manage.py migrate && python manage.py createsuperuser
gunicorn --workers 2 shop.wsgi
curl -H "X-Tenant-ID: acme" http://127.0.0.1:8000/catalogue/
"""
