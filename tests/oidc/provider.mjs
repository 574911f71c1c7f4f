// An OpenID provider for the tests, on npm's `oidc-provider`: it logs everybody in as `anna` and asks nothing.
//
//   node provider.mjs MODULES PORT KEY_FILE
//
// KEY_FILE holds its signing keys as a JWK set; without one it makes a key and writes it there, so that a test can restart it with
// the same key, or with another. What it knows of logins and tokens is in memory: a restart forgets it.
import { createServer } from 'node:http';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { pathToFileURL } from 'node:url';

const [modules, port, keyFile] = process.argv.slice(2);
const { default: Provider } = await import(pathToFileURL(`${modules}/oidc-provider/lib/index.js`));

if (!existsSync(keyFile)) {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const key = { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', alg: 'RS256' };
  writeFileSync(keyFile, JSON.stringify({ keys: [key] }));
}
const secret = 'a secret of the shop that is long enough';
const anywhere = {
  redirect_uris: ['http://gateway.test/callback'],
  post_logout_redirect_uris: ['http://gateway.test/bye'],
  grant_types: ['authorization_code', 'refresh_token', 'client_credentials'],
  response_types: ['code'],
};
const issuer = `http://127.0.0.1:${port}`;
const provider = new Provider(issuer, {
  clients: [
    { ...anywhere, client_id: 'shop', client_secret: secret },
    { ...anywhere, client_id: 'post', client_secret: secret, token_endpoint_auth_method: 'client_secret_post' },
    { ...anywhere, client_id: 'jwt', client_secret: secret, token_endpoint_auth_method: 'client_secret_jwt' },
    { ...anywhere, client_id: 'proof', client_secret: secret, dpop_bound_access_tokens: true },
    { ...anywhere, client_id: 'public', token_endpoint_auth_method: 'none', grant_types: ['authorization_code', 'refresh_token'] },
    {
      ...anywhere, client_id: 'key', token_endpoint_auth_method: 'private_key_jwt',
      jwks: existsSync(`${keyFile}.client`) ? JSON.parse(readFileSync(`${keyFile}.client`)) : { keys: [] },
    },
  ],
  jwks: JSON.parse(readFileSync(keyFile)),
  cookies: { keys: ['a key for the provider itself'] },
  scopes: ['openid', 'offline_access', 'email', 'read', 'write'],
  claims: { openid: ['sub'], email: ['email'] },
  findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id, email: `${id}@shop.test` }) }),
  pkce: { required: () => false },
  issueRefreshToken: async (ctx, client) => client.grantTypeAllowed('refresh_token'),
  rotateRefreshToken: true,
  ttl: { AccessToken: 3600, Grant: 7200, IdToken: 3600, Interaction: 600, RefreshToken: 7200, Session: 7200, ClientCredentials: 3600 },
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  features: {
    devInteractions: { enabled: false },
    introspection: { enabled: true },
    revocation: { enabled: true },
    clientCredentials: { enabled: true },
    dPoP: { enabled: true, nonceSecret: Buffer.alloc(32, 1), requireNonce: () => true },
    pushedAuthorizationRequests: { enabled: true },
    rpInitiatedLogout: {
      enabled: true,
      logoutSource: (ctx, form) => { ctx.body = `<body>${form}</body>`; },
    },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      getResourceServerInfo: (ctx, resource) => ({ scope: 'read write', audience: resource, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } } }),
    },
  },
});

const answer = provider.callback();
const log = [];
createServer(async (request, response) => {
  if (request.url === '/seen') {
    response.end(JSON.stringify(log));
    return;
  }
  log.push(`${request.method} ${request.url.split('?')[0]}`);
  if (request.url.startsWith('/interaction/')) {
    const { params, session } = await provider.interactionDetails(request, response);
    const grant = new provider.Grant({ accountId: session?.accountId ?? 'anna', clientId: params.client_id });
    grant.addOIDCScope(params.scope);
    const consent = { grantId: await grant.save() };
    await provider.interactionFinished(request, response, { login: { accountId: 'anna' }, consent }, { mergeWithLastSubmission: false });
    return;
  }
  answer(request, response);
}).listen(Number(port), '127.0.0.1', () => console.log('ready'));
