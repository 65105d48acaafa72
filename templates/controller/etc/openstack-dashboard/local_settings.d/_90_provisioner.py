# Rendered by the config agent; the next generation replaces it. Read after the settings of the package.
OPENSTACK_HOST = "{{node.address}}"
OPENSTACK_KEYSTONE_URL = "http://{{node.address}}:5000/v3"
OPENSTACK_ENDPOINT_TYPE = "internalURL"
OPENSTACK_API_VERSIONS = {"identity": 3, "image": 2}
{{#openstack.tls}}
OPENSTACK_SSL_CACERT = "/etc/ssl/openstack-authority.pem"
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
CSRF_COOKIE_SECURE = True
SESSION_COOKIE_SECURE = True
{{/openstack.tls}}
SECRET_KEY = "{{secrets.horizon_secret_key}}"
# Sessions are in the browser's own keeping, signed: any controller can go on with them.
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
ALLOWED_HOSTS = ["*"]
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
        "LOCATION": [{{#members.controller}}"{{address}}:11211", {{/members.controller}}],
    }
}
